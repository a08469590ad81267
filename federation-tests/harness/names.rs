//! The names of one network: a DNS that answers each server as the test wants it answered, and remembers who asked.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

/// Seconds that an answer holds: short, for the test changes its mind.
const TTL: u32 = 1;
/// The longest question that is read.
const MAX_MESSAGE: usize = 4096;

/// What there are records of.
const KINDS: [RecordType; 3] = [RecordType::A, RecordType::AAAA, RecordType::SRV];

/// What names lead to. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Names {
    zone: Arc<Mutex<Zone>>,
}

#[derive(Debug, Default)]
struct Zone {
    /// By viewer (none: everyone), name and type.
    records: HashMap<(Option<String>, String, RecordType), Vec<RData>>,
    /// Viewers that get no answer at all.
    deaf: Vec<String>,
    questions: Vec<Question>,
}

/// One question that a server has asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which server asked.
    pub viewer: String,
    /// The name, without a dot at its end.
    pub name: String,
    /// `A`, `AAAA`, `SRV` and so on.
    pub kind: String,
}

impl Names {
    /// Lets `name` lead to `addresses`, A and AAAA records by what they are.
    pub fn host(&self, name: &str, addresses: &[IpAddr]) {
        let a = addresses.iter().filter_map(|ip| match ip {
            IpAddr::V4(ip) => Some(RData::A(rdata::A(*ip))),
            IpAddr::V6(_) => None,
        });
        let aaaa = addresses.iter().filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some(RData::AAAA(rdata::AAAA(*ip))),
            IpAddr::V4(_) => None,
        });
        self.put(None, name, RecordType::A, a.collect());
        self.put(None, name, RecordType::AAAA, aaaa.collect());
    }

    /// Where `name` leads to.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let zone = self.zone();
        let found = [RecordType::A, RecordType::AAAA].into_iter().flat_map(|kind| zone.find("", name, kind));
        found.filter_map(|data| data.ip_addr()).collect()
    }

    /// Lets the SRV record `name` lead to `targets`: priority, weight, port and host name.
    pub fn service(&self, name: &str, targets: &[(u16, u16, u16, &str)]) {
        self.put(None, name, RecordType::SRV, services(targets));
    }

    /// The same for the eyes of `viewer` alone.
    pub fn service_for(&self, viewer: &str, name: &str, targets: &[(u16, u16, u16, &str)]) {
        self.put(Some(viewer.to_owned()), name, RecordType::SRV, services(targets));
    }

    /// Forgets all records of `name`, whoever they were for: it does not exist.
    pub fn forget(&self, name: &str) {
        self.zone().records.retain(|(_, known, _), _| known != name);
    }

    /// Whether `viewer` gets answers; without, its questions end nowhere.
    pub fn set_deaf(&self, viewer: &str, deaf: bool) {
        let mut zone = self.zone();
        zone.deaf.retain(|known| known != viewer);
        if deaf {
            zone.deaf.push(viewer.to_owned());
        }
    }

    /// What was asked so far, in order.
    pub fn questions(&self) -> Vec<Question> {
        self.zone().questions.clone()
    }

    fn put(&self, viewer: Option<String>, name: &str, kind: RecordType, data: Vec<RData>) {
        self.zone().records.insert((viewer, name.to_owned(), kind), data);
    }

    fn zone(&self) -> std::sync::MutexGuard<'_, Zone> {
        self.zone.lock().expect("nobody panics while holding it")
    }

    // === answering ===

    /// Answers `viewer` at a port of `ip`, over UDP and TCP, until the tasks end.
    pub(crate) async fn serve(&self, ip: IpAddr, viewer: &str, tasks: &mut JoinSet<()>) -> SocketAddr {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind((ip, 0)).await.expect("a UDP port");
            let address = udp.local_addr().expect("it is bound");
            // The same number may be taken over there.
            if let Ok(tcp) = TcpListener::bind(address).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("it is bound");
        tasks.spawn(answer_datagrams(self.clone(), viewer.to_owned(), udp));
        tasks.spawn(answer_streams(self.clone(), viewer.to_owned(), tcp));
        address
    }

    fn answer(&self, viewer: &str, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).ok()?;
        let query = question.queries.first()?.clone();
        let name = query.name.to_lowercase().to_ascii().trim_end_matches('.').to_owned();
        let kind = query.query_type;
        let mut zone = self.zone();
        zone.questions.push(Question { viewer: viewer.to_owned(), name: name.clone(), kind: kind.to_string() });
        if zone.deaf.iter().any(|deaf| deaf == viewer) {
            return None;
        }
        let found: Vec<RData> = match kind {
            RecordType::ANY => KINDS.into_iter().flat_map(|kind| zone.find(viewer, &name, kind)).collect(),
            kind => zone.find(viewer, &name, kind),
        };
        let known = zone.records.keys().any(|(_, known, _)| *known == name);

        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.authoritative = true;
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        if !known {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        for data in found {
            answer.add_answer(Record::from_rdata(query.name.clone(), TTL, data));
        }
        answer.add_query(query);
        answer.to_vec().ok()
    }
}

impl Zone {
    /// What `viewer` is told: what is for its eyes alone, or what is for everyone's.
    fn find(&self, viewer: &str, name: &str, kind: RecordType) -> Vec<RData> {
        let private = self.records.get(&(Some(viewer.to_owned()), name.to_owned(), kind));
        private.or_else(|| self.records.get(&(None, name.to_owned(), kind))).cloned().unwrap_or_default()
    }
}

fn services(targets: &[(u16, u16, u16, &str)]) -> Vec<RData> {
    let name = |target: &str| Name::from_ascii(format!("{target}.")).expect("a host name");
    let service = |&(priority, weight, port, target): &(u16, u16, u16, &str)| {
        RData::SRV(rdata::SRV::new(priority, weight, port, name(target)))
    };
    targets.iter().map(service).collect()
}

async fn answer_datagrams(names: Names, viewer: String, socket: UdpSocket) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = names.answer(&viewer, &buffer[..length]) {
            // Who asked may be gone already; then nobody misses the answer.
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn answer_streams(names: Names, viewer: String, listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(answer_stream(names.clone(), viewer.clone(), stream));
        while connections.try_join_next().is_some() {}
    }
}

/// Each message has its length before it.
async fn answer_stream(names: Names, viewer: String, mut stream: TcpStream) {
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        let Some(answer) = names.answer(&viewer, &question) else { return };
        let length = u16::try_from(answer.len()).expect("answers of a test are short");
        if stream.write_u16(length).await.is_err() || stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}
