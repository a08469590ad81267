//! Looking for what was said.
//!
//! Spec: <https://spec.matrix.org/v1.19/client-server-api/#server-side-search>

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{Method, header};
use model::{Position, RoomNid, TimelineEvent};
use rooms::{Found, PageRequest, Reader, SearchCursor, SearchKey, SearchOrder, SearchPage, SearchRequest, Sight};
use ruma::{
    OwnedRoomId, OwnedUserId, UInt,
    api::{
        Direction,
        client::{
            filter::RoomEventFilter,
            search::search_events::v3::{GroupingKey, Groupings, OrderBy, SearchKeys},
        },
    },
    events::StateEventType,
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::history::{reader, token};
use crate::{
    Error, Needs, Route, Services, Session,
    endpoint::{PlainAsk, parse_json, plain_endpoint},
};

/// How many results there are on a page whose asker doesn't say.
const USUAL: usize = 10;
/// No page has more.
const MOST: usize = 100;
/// Around a result there are so many events on each side where the asker doesn't say.
const USUAL_CONTEXT: usize = 5;
/// There are never more,
const MOST_CONTEXT: usize = 50;
/// nor more on a whole page.
const MOST_SURROUNDING: usize = 1_000;

/// The endpoints of this file.
pub(crate) fn routes() -> Vec<Route> {
    let route = plain_endpoint(Method::POST, "/_matrix/client/v3/search", Needs::User, search);
    vec![route.also_at("/_matrix/client/r0/search")]
}

/// Of ruma's type one can't tell whether context was asked for, and its answer leaves out what is empty.
#[derive(Deserialize)]
struct Question {
    search_categories: Categories,
}

#[derive(Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

#[derive(Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<SearchKeys>>,
    #[serde(default)]
    filter: RoomEventFilter,
    order_by: Option<OrderBy>,
    event_context: Option<EventContext>,
    #[serde(default)]
    include_state: bool,
    #[serde(default)]
    groupings: Groupings,
}

#[derive(Deserialize)]
struct EventContext {
    before_limit: Option<UInt>,
    after_limit: Option<UInt>,
    #[serde(default)]
    include_profile: bool,
}

/// Where a page ended: how many results were counted, the place, and, for one group's pages, which group that is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct NextBatch {
    count: usize,
    cursor: SearchCursor,
    group: Option<Group>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Group {
    Room(OwnedRoomId),
    Sender(OwnedUserId),
}

async fn search(ask: PlainAsk) -> Result<Response, Error> {
    let session = ask.session().await?;
    let from = next_batch(ask.parts.uri.query().unwrap_or_default())?;
    let question: Question = parse_json(&ask.body)?;
    let answer = match question.search_categories.room_events {
        Some(criteria) => json!({ "room_events": room_events(&ask.services, &session, criteria, from).await? }),
        None => json!({}),
    };
    let body = json!({ "search_categories": answer }).to_string();
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response())
}

fn next_batch(query: &str) -> Result<Option<NextBatch>, Error> {
    #[derive(Deserialize)]
    struct Query {
        next_batch: Option<String>,
    }
    let query: Query = serde_html_form::from_str(query)
        .map_err(|error| Error::invalid_param(format!("the query is wrong: {error}")))?;
    let wrong = || Error::invalid_param("next_batch: this is not a token of this server");
    query.next_batch.map(|text| NextBatch::read(&text).ok_or_else(wrong)).transpose()
}

async fn room_events(
    services: &Services,
    session: &Session,
    criteria: Criteria,
    from: Option<NextBatch>,
) -> Result<Value, Error> {
    let keys = keys_of(criteria.keys.as_deref())?;
    let order = match criteria.order_by.as_ref() {
        None | Some(OrderBy::Rank) => SearchOrder::Rank,
        Some(OrderBy::Recent) => SearchOrder::Recent,
        Some(other) => return Err(Error::invalid_param(format!("order_by: `{other}` is neither rank nor recent"))),
    };
    let mut filter = criteria.filter;
    if let Some(group) = from.as_ref().and_then(|from| from.group.as_ref()) {
        group.narrow(&mut filter);
    }
    let limit = filter.limit.map_or(USUAL, whole).clamp(1, MOST);
    let request = SearchRequest {
        text: &criteria.search_term,
        keys: &keys,
        filter: &filter,
        order,
        limit,
        cursor: from.as_ref().map(|from| from.cursor),
        made_from: i64::MIN,
        made_before: i64::MAX,
        counts: true,
        cleared: None,
    };
    let mut page = services.search.search(&session.user_id, &request).await?;
    let count = page.count.or(from.as_ref().map(|from| from.count)).unwrap_or_default();
    let of_group = from.and_then(|from| from.group);
    let next = |cursor, group| NextBatch { count, cursor, group }.write();

    let mut results = Vec::with_capacity(page.found.len());
    let mut surrounding = MOST_SURROUNDING;
    let events = rendered(services, session, &mut page).await?;
    for (found, event) in page.found.iter().zip(events) {
        let mut result = json!({ "rank": f64::from(found.rank) / 1_000_000.0, "result": event });
        if let Some(wanted) = &criteria.event_context
            && let Some(sight) = page.sights.get_mut(&found.room.nid)
        {
            result["context"] = context(services, session, found, sight, wanted, &mut surrounding).await?;
        }
        results.push(result);
    }
    let mut answer = json!({ "count": count, "highlights": page.words, "results": results });
    if let Some(cursor) = page.next {
        answer["next_batch"] = next(cursor, of_group.clone()).into();
    }
    if !criteria.groupings.group_by.is_empty() {
        // What of a group isn't on this page comes after all of it.
        answer["groups"] = groups(&criteria.groupings, &page.found, |group| {
            let goes_on = of_group.is_none() || of_group.as_ref() == Some(&group);
            page.next.filter(|_| goes_on).map(|cursor| next(cursor, Some(group)))
        })?;
    }
    if criteria.include_state {
        answer["state"] = state(services, &page).await?;
    }
    Ok(answer)
}

fn keys_of(keys: Option<&[SearchKeys]>) -> Result<Vec<SearchKey>, Error> {
    let key = |key: &SearchKeys| match key {
        SearchKeys::ContentBody => Ok(SearchKey::Body),
        SearchKeys::ContentName => Ok(SearchKey::Name),
        SearchKeys::ContentTopic => Ok(SearchKey::Topic),
        other => Err(Error::invalid_param(format!("keys: `{other}` is none that can be searched"))),
    };
    keys.unwrap_or_default().iter().map(key).collect()
}

fn whole(number: UInt) -> usize {
    usize::try_from(u64::from(number)).unwrap_or(usize::MAX)
}

/// The events of the page as its reader sees them, in their order.
async fn rendered(services: &Services, session: &Session, page: &mut SearchPage<'_>) -> Result<Vec<Value>, Error> {
    let mut by_room: HashMap<RoomNid, Vec<&Found>> = HashMap::new();
    for found in &page.found {
        by_room.entry(found.room.nid).or_default().push(found);
    }
    let mut values: HashMap<Position, Value> = HashMap::new();
    for (nid, found) in by_room {
        let Some(sight) = page.sights.get_mut(&nid) else { continue };
        let events: Vec<Arc<TimelineEvent>> = found.iter().map(|found| found.event.clone()).collect();
        let shown: Vec<Raw<Value>> = services.rooms.render_all(&found[0].room, &events, reader(session), sight).await?;
        for (event, shown) in events.iter().zip(shown) {
            let mut value = shown.deserialize().unwrap_or_default();
            // What the sender was called before version 1 of the specification, which readers of searches look for still.
            value["user_id"] = event.pdu.sender.as_str().into();
            values.insert(event.position, value);
        }
    }
    Ok(page.found.iter().map(|found| values.remove(&found.event.position).unwrap_or_default()).collect())
}

/// What surrounds a result. `left`: how many events the whole page may have around its results still.
async fn context(
    services: &Services,
    session: &Session,
    found: &Found,
    sight: &mut Sight<'_>,
    wanted: &EventContext,
    left: &mut usize,
) -> Result<Value, Error> {
    let everything = RoomEventFilter::default();
    let (rooms, room, event) = (&services.rooms, &found.room, &found.event);
    let reader: Reader<'_> = reader(session);
    let mut sides = Vec::with_capacity(2);
    for (direction, from, limit) in [
        (Direction::Backward, Position(event.position.0 - 1), wanted.before_limit),
        (Direction::Forward, event.position, wanted.after_limit),
    ] {
        let limit = limit.map_or(USUAL_CONTEXT, whole).min(MOST_CONTEXT).min(*left);
        let (events, end) = match limit {
            0 => (Vec::new(), from),
            limit => {
                let request = PageRequest { from: Some(from), to: None, direction, limit, filter: &everything };
                let page = rooms.page(room, sight, request).await?;
                (page.events, page.end.unwrap_or(from))
            }
        };
        *left -= events.len().min(*left);
        sides.push((events, end));
    }
    let [(before, start), (after, end)] = <[_; 2]>::try_from(sides).expect("there are two sides");
    let mut context = json!({ "start": token(start), "end": token(end) });
    if wanted.include_profile {
        let senders = before.iter().chain([event]).chain(&after).map(|event| event.pdu.sender.clone()).collect();
        context["profile_info"] = profiles(services, event, senders).await?;
    }
    for (name, events) in [("events_before", before), ("events_after", after)] {
        let events: Vec<Raw<Value>> = rooms.render_all(room, &events, reader, sight).await?;
        context[name] = json!(events);
    }
    Ok(context)
}

/// What these people were called in the room when the event was made.
async fn profiles(services: &Services, event: &TimelineEvent, senders: BTreeSet<OwnedUserId>) -> Result<Value, Error> {
    #[derive(Deserialize)]
    struct Content {
        displayname: Option<String>,
        avatar_url: Option<String>,
    }
    let Some(snapshot) = event.state_before else { return Ok(json!({})) };
    let state = services.rooms.state_at(snapshot).await?;
    let key = |user: &OwnedUserId| (StateEventType::RoomMember, user.to_string());
    let members = services.rooms.events(senders.iter().filter_map(|user| state.get(&key(user)).copied())).await?;
    let mut profiles = Map::new();
    for member in members {
        let (Some(user), Some(content)) = (member.pdu.state_key.clone(), member.pdu.content_as::<Content>()) else {
            continue;
        };
        profiles.insert(user, json!({ "displayname": content.displayname, "avatar_url": content.avatar_url }));
    }
    Ok(profiles.into())
}

/// Which results belong together. `next`: where a group goes on after its last result.
fn groups(groupings: &Groupings, found: &[Found], next: impl Fn(Group) -> Option<String>) -> Result<Value, Error> {
    let mut groups = Map::new();
    for grouping in &groupings.group_by {
        let by_room = match &grouping.key {
            Some(GroupingKey::RoomId) => true,
            Some(GroupingKey::Sender) => false,
            other => {
                let other = other.as_ref().map(ToString::to_string).unwrap_or_default();
                return Err(Error::invalid_param(format!("group_by: `{other}` is neither room_id nor sender")));
            }
        };
        let mut members: BTreeMap<String, (usize, Group, Vec<&Found>)> = BTreeMap::new();
        for found in found {
            let group = match by_room {
                true => Group::Room(found.room.room_id.clone()),
                false => Group::Sender(found.event.pdu.sender.clone()),
            };
            let order = members.len() + 1;
            members.entry(group.name().to_owned()).or_insert_with(|| (order, group, Vec::new())).2.push(found);
        }
        let told = members.into_iter().map(|(name, (order, group, found))| {
            let ids: Vec<_> = found.iter().map(|found| &found.event.pdu.event_id).collect();
            let mut told = json!({ "order": order, "results": ids });
            if let Some(next) = next(group) {
                told["next_batch"] = next.into();
            }
            (name, told)
        });
        let key = if by_room { "room_id" } else { "sender" };
        groups.insert(key.to_owned(), Value::Object(told.collect()));
    }
    Ok(groups.into())
}

/// The state of each room in which something was found, as far as the reader sees it.
async fn state(services: &Services, page: &SearchPage<'_>) -> Result<Value, Error> {
    let mut states = Map::new();
    for found in &page.found {
        let Some(sight) = page.sights.get(&found.room.nid) else { continue };
        if states.contains_key(found.room.room_id.as_str()) {
            continue;
        }
        let mut events = services.rooms.events(sight.state().await?.values().copied()).await?;
        events.retain(|event| sight.shows_state(event));
        let events: Vec<Raw<Value>> = services.rooms.render_state(&events);
        states.insert(found.room.room_id.to_string(), json!(events));
    }
    Ok(states.into())
}

impl Group {
    fn name(&self) -> &str {
        match self {
            Self::Room(room_id) => room_id.as_str(),
            Self::Sender(user_id) => user_id.as_str(),
        }
    }

    /// Lets only this group through.
    fn narrow(&self, filter: &mut RoomEventFilter) {
        match self {
            Self::Room(room_id) => {
                let is_wanted = filter.rooms.as_ref().is_none_or(|rooms| rooms.contains(room_id));
                filter.rooms = Some(if is_wanted { vec![room_id.clone()] } else { Vec::new() });
            }
            Self::Sender(user_id) => {
                let is_wanted = filter.senders.as_ref().is_none_or(|senders| senders.contains(user_id));
                filter.senders = Some(if is_wanted { vec![user_id.clone()] } else { Vec::new() });
            }
        }
    }
}

impl NextBatch {
    fn write(&self) -> String {
        let group = self.group.as_ref().map(Group::name).unwrap_or_default();
        format!("{}_{}_{group}", self.count, self.cursor)
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '_');
        let count = parts.next()?.parse().ok()?;
        let cursor = parts.next()?.parse().ok()?;
        let group = match parts.next()? {
            "" => None,
            user_id if user_id.starts_with('@') => Some(Group::Sender(user_id.parse().ok()?)),
            room_id => Some(Group::Room(room_id.parse().ok()?)),
        };
        Some(Self { count, cursor, group })
    }
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
