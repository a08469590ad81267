//! What is done, drawn by chance, and what is to be seen of it.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};

use super::faces::Person;

/// What people react with.
const KEYS: [&str; 3] = ["👍", "❤", "yes"];

/// What people say: in several scripts, and with whatever has to be escaped on its way.
const TEXTS: [&str; 5] = ["tea", "茶", "чай", "شاي", "two\r\nlines \\ \"of\"\tit / \u{1}\u{7f}\u{2028} 😀"];

/// By which face something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Matrix,
    Rest,
    Socket,
}

impl Face {
    fn draw(dice: &mut StdRng) -> Self {
        *[Self::Matrix, Self::Rest, Self::Socket].choose(dice).expect("there are some")
    }
}

/// One thing that somebody does. Messages are named by their number in the plan.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Say { message: usize, text: String, reply_to: Option<usize> },
    Edit { message: usize, text: String },
    Recall { message: usize },
    React { message: usize, key: &'static str },
    Unreact { message: usize, key: &'static str },
    Read { message: usize },
    Rename { name: String },
}

/// Somebody comes, or goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub(super) who: usize,
    pub(super) comes: bool,
    /// Alice puts them out; else they leave by themselves.
    pub(super) by_alice: bool,
    pub(super) face: Face,
}

/// A message as it is to be seen.
#[derive(Debug)]
struct Planned {
    id: Option<String>,
    sender: usize,
    /// `None`: it was taken back.
    text: Option<String>,
    reactions: BTreeSet<(&'static str, usize)>,
}

/// Everything that was planned.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) members: BTreeSet<usize>,
    pub(super) name: String,
    messages: Vec<Planned>,
    /// How far each has said to have read.
    read: BTreeMap<usize, usize>,
    /// What was edited in this round.
    edited: BTreeSet<usize>,
}

/// By message id, the text of each that is no more than a text; `None`: it was taken back.
pub(super) type Texts = BTreeMap<String, Option<String>>;
/// By message id, how many reacted with what.
pub(super) type Reactions = BTreeMap<String, BTreeMap<String, usize>>;

impl Plan {
    pub(super) fn new(people: usize, name: &str) -> Self {
        Self {
            members: (0..people).collect(),
            name: name.into(),
            messages: Vec::new(),
            read: BTreeMap::new(),
            edited: BTreeSet::new(),
        }
    }

    /// What each does in the next round, in order.
    pub(super) fn draw_round(&mut self, dice: &mut StdRng) -> Vec<Vec<(Face, Act)>> {
        // What everybody has seen, so that anybody may refer to it.
        let settled = self.messages.len();
        self.edited.clear();
        let mut todo = vec![Vec::new(); 4];
        for who in self.members.clone() {
            let mut has_read = false;
            for _ in 0..dice.random_range(1..=4) {
                let Some(act) = self.draw_act(who, settled, has_read, dice) else { continue };
                has_read |= matches!(act, Act::Read { .. });
                todo[who].push((Face::draw(dice), act));
            }
        }
        todo
    }

    fn draw_act(&mut self, who: usize, settled: usize, has_read: bool, dice: &mut StdRng) -> Option<Act> {
        let text = format!("{} {:x}", TEXTS[dice.random_range(0..TEXTS.len())], dice.random::<u32>());
        match dice.random_range(0..12) {
            0..5 => {
                let reply_to = (settled > 0 && dice.random_bool(0.3)).then(|| dice.random_range(0..settled));
                let reply_to = reply_to.filter(|&of| self.messages[of].text.is_some());
                self.messages.push(Planned {
                    id: None,
                    sender: who,
                    text: Some(text.clone()),
                    reactions: BTreeSet::new(),
                });
                Some(Act::Say { message: self.messages.len() - 1, text, reply_to })
            }
            5 | 6 => {
                // Once in a round: of two edits of one millisecond the ids decide.
                let message =
                    self.pick(dice, |at, one| one.sender == who && at < settled && !self.edited.contains(&at))?;
                self.edited.insert(message);
                self.messages[message].text = Some(text.clone());
                Some(Act::Edit { message, text })
            }
            // Of what nobody has seen yet, so that nobody reacts to what isn't there any more.
            7 => {
                let message = self.pick(dice, |at, one| one.sender == who && at >= settled)?;
                self.messages[message].text = None;
                Some(Act::Recall { message })
            }
            8 | 9 => {
                let (key, message) = (*KEYS.choose(dice)?, self.pick(dice, |at, _| at < settled)?);
                let is_new = self.messages[message].reactions.insert((key, who));
                is_new.then_some(Act::React { message, key })
            }
            10 => {
                let message = self.pick(dice, |at, one| at < settled && one.reactions.iter().any(|of| of.1 == who))?;
                let (key, _) = *self.messages[message].reactions.iter().find(|of| of.1 == who)?;
                self.messages[message].reactions.remove(&(key, who));
                Some(Act::Unreact { message, key })
            }
            _ if who == 0 && dice.random_bool(0.3) => {
                self.name.clone_from(&text);
                Some(Act::Rename { name: text })
            }
            // The latest that everybody has: what comes in this round comes to each server in another order.
            _ if settled > 0 && !has_read && self.may_read(who, settled - 1) => {
                self.read.insert(who, settled - 1);
                Some(Act::Read { message: settled - 1 })
            }
            _ => None,
        }
    }

    /// Whether a mark at this message says something new. Nobody marks what he has said himself.
    fn may_read(&self, who: usize, message: usize) -> bool {
        self.messages[message].sender != who && self.read.get(&who).is_none_or(|&read| read < message)
    }

    fn pick(&self, dice: &mut StdRng, is_it: impl Fn(usize, &Planned) -> bool) -> Option<usize> {
        let fitting = self.messages.iter().enumerate().filter(|(at, one)| one.text.is_some() && is_it(*at, one));
        fitting.map(|(at, _)| at).collect::<Vec<_>>().choose(dice).copied()
    }

    /// Who comes or goes next, if anybody.
    pub(super) fn draw_move(&self, dice: &mut StdRng) -> Option<Move> {
        let who = dice.random_range(2..4);
        let (by_alice, face) = (dice.random_bool(0.5), Face::draw(dice));
        dice.random_bool(0.4).then_some(Move { who, comes: !self.members.contains(&who), by_alice, face })
    }

    pub(super) fn moved(&mut self, change: Move) {
        if change.comes {
            self.members.insert(change.who);
        } else {
            self.members.remove(&change.who);
        }
    }

    /// The ids of all messages so far.
    pub(super) fn ids(&self) -> BTreeMap<usize, String> {
        self.messages.iter().enumerate().filter_map(|(at, one)| Some((at, one.id.clone()?))).collect()
    }

    pub(super) fn note_ids(&mut self, said: Vec<(usize, String)>) {
        for (message, id) in said {
            self.messages[message].id = Some(id);
        }
    }

    fn seen(&self) -> impl Iterator<Item = (String, &Planned)> {
        self.messages.iter().map(|one| (one.id.clone().expect("it has been said"), one))
    }

    pub(super) fn texts(&self) -> Texts {
        self.seen().map(|(id, one)| (id, one.text.clone())).collect()
    }

    /// Of what wasn't taken back.
    pub(super) fn reactions(&self) -> Reactions {
        let mut all = Reactions::new();
        for (id, one) in self.seen().filter(|(_, one)| one.text.is_some()) {
            for (key, _) in &one.reactions {
                *all.entry(id.clone()).or_default().entry((*key).to_owned()).or_default() += 1;
            }
        }
        all
    }

    /// By message that somebody has read just as far as, who has read it: who has left has read it all the same.
    pub(super) fn read(&self, people: &[Person]) -> BTreeMap<String, Read> {
        let names = |is_it: &dyn Fn(usize, usize) -> bool| {
            let readers = self.read.iter().filter(|(who, upto)| is_it(**who, **upto));
            readers.map(|(who, _)| people[*who].client.user_id.clone()).collect()
        };
        let of = |message: usize| {
            let planned = &self.messages[message];
            let read = Read {
                just_to: names(&|_, upto| upto == message),
                so_far: names(&|who, upto| upto >= message && who != planned.sender),
            };
            (planned.id.clone().expect("it has been said"), read)
        };
        self.read.values().map(|message| of(*message)).collect()
    }
}

/// Who has read a message.
#[derive(Debug)]
pub(super) struct Read {
    /// Whose mark is at it.
    pub(super) just_to: BTreeSet<String>,
    /// Whose mark is at it or later, but for its sender.
    pub(super) so_far: BTreeSet<String>,
}
