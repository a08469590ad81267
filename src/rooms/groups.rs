//! Groups: rooms as people speak of them, who own them, moderate them, and may say something in them.

use model::Draft;
use ruma::{
    OwnedUserId, RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde_json::{Map, Value, json, value::to_raw_value};

use crate::{
    RoomError, Rooms, Wish,
    live::SharedRoom,
    membership::{MemberProfile, member_content, member_draft},
    roles::{ADMIN, OWNER, Role},
    send::membership_of,
};

/// What somebody must have to speak who may not.
const SILENT: i64 = -1;
/// The state that says that a group is no more. A tombstone, which clients know, would have to name a successor.
const DISSOLVED: &str = "org.comity.dissolved";
/// So many members are put out in one write.
const AT_ONCE: usize = 50;

/// Who may come into a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Who is invited.
    Invited,
    /// Who is invited, or asks and is let in.
    Asking,
    /// Everybody.
    Everybody,
}

impl Door {
    fn join_rule(self) -> &'static str {
        match self {
            Self::Invited => "invite",
            Self::Asking => "knock",
            Self::Everybody => "public",
        }
    }

    fn of(join_rule: &str) -> Self {
        match join_rule {
            "public" => Self::Everybody,
            "knock" | "knock_restricted" => Self::Asking,
            _ => Self::Invited,
        }
    }
}

/// How a group is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// What the asker is in it.
    pub role: Role,
    /// Who may come in.
    pub door: Door,
    /// Only admins may say something.
    pub is_muted: bool,
    /// It is no more.
    pub is_dissolved: bool,
}

impl Rooms {
    /// Of which version new groups are: the default one, unless a room of that stays its maker's for ever.
    pub fn version_of_groups(&self) -> RoomVersionId {
        let usual = self.default_version();
        let is_for_ever =
            model::rules_of(usual).is_some_and(|rules| rules.authorization.explicitly_privilege_room_creators);
        if is_for_ever { RoomVersionId::V11 } else { usual.clone() }
    }

    /// How a group is run, as a member sees it.
    pub async fn order(&self, room: &SharedRoom, user_id: &UserId) -> Result<Order, RoomError> {
        let power_levels = self.power_levels(room).await?;
        let rules: Option<Value> = self.state_content(room, StateEventType::RoomJoinRules).await?;
        let join_rule = rules.as_ref().and_then(|rules| rules["join_rule"].as_str()).unwrap_or_default();
        Ok(Order {
            role: Role::of(&power_levels, user_id),
            door: Door::of(join_rule),
            is_muted: i64::from(power_levels.events_default) >= ADMIN,
            is_dissolved: self.state_event(room, DISSOLVED.into(), "").await?.is_some(),
        })
    }

    /// Makes a member an admin, or a member like others.
    pub async fn set_role(
        &self,
        room: &SharedRoom,
        sender: &UserId,
        user_id: &UserId,
        role: Role,
    ) -> Result<(), RoomError> {
        self.check_is_in(room, user_id).await?;
        let level = match role {
            Role::Owner => return Err(RoomError::Invalid("a group is handed over, or stays its owner's".into())),
            Role::Admin => Some(ADMIN),
            Role::Member => None,
        };
        self.edit_levels(room, sender, |levels| set_level(levels, user_id, level)).await
    }

    /// Hands a group over: `user_id` owns it from now on, and who did is an admin.
    ///
    /// Errors: `Forbidden` for rooms of version 12 and later, whose makers stay above everybody for ever.
    pub async fn hand_over(&self, room: &SharedRoom, sender: &UserId, user_id: &UserId) -> Result<(), RoomError> {
        if room.rules.authorization.explicitly_privilege_room_creators {
            let text = format!("a room of version {} stays its maker's", room.version);
            return Err(RoomError::Forbidden(text));
        }
        if Role::of(&self.power_levels(room).await?, sender) != Role::Owner {
            return Err(RoomError::Forbidden("only its owner may hand a group over".into()));
        }
        self.check_is_in(room, user_id).await?;
        if sender == user_id {
            return Ok(());
        }
        self.edit_levels(room, sender, |levels| {
            set_level(levels, user_id, Some(OWNER));
            set_level(levels, sender, Some(ADMIN));
        })
        .await
    }

    /// Lets a member say nothing, or something again.
    pub async fn mute_member(
        &self,
        room: &SharedRoom,
        sender: &UserId,
        user_id: &UserId,
        is_muted: bool,
    ) -> Result<(), RoomError> {
        self.check_is_in(room, user_id).await?;
        if Role::of(&self.power_levels(room).await?, user_id) != Role::Member {
            return Err(RoomError::Forbidden("who moderates a group is not muted".into()));
        }
        self.edit_levels(room, sender, |levels| set_level(levels, user_id, is_muted.then_some(SILENT))).await
    }

    /// Lets only admins say something, or everybody again.
    pub async fn mute_all(&self, room: &SharedRoom, sender: &UserId, is_muted: bool) -> Result<(), RoomError> {
        self.edit_levels(room, sender, |levels| {
            levels.insert("events_default".into(), if is_muted { ADMIN } else { 0 }.into());
        })
        .await
    }

    /// Opens a group, or closes it.
    pub async fn set_door(&self, room: &SharedRoom, sender: &UserId, door: Door) -> Result<(), RoomError> {
        let content = json!({ "join_rule": door.join_rule() });
        self.set_state(room, sender, TimelineEventType::RoomJoinRules, "", &content).await
    }

    /// What a member is called in this room alone; `None`: as everywhere.
    pub async fn set_nickname(
        &self,
        room: &SharedRoom,
        user_id: &UserId,
        nickname: Option<&str>,
    ) -> Result<(), RoomError> {
        const LONGEST: usize = 100;
        if nickname.is_some_and(|name| name.is_empty() || name.chars().count() > LONGEST) {
            return Err(RoomError::Invalid(format!("a nickname has 1 to {LONGEST} letters")));
        }
        self.check_joined(room, user_id).await?;
        let mut profile = self.profile_for_membership(user_id).await?;
        if let Some(nickname) = nickname {
            profile.display_name = Some(nickname.to_owned());
        }
        let content = member_content(&MembershipState::Join, &profile, None, None);
        self.set_state(room, user_id, TimelineEventType::RoomMember, user_id.as_str(), &Value::Object(content)).await
    }

    /// Says what the room is called, what it is about, or what it looks like.
    pub async fn describe_group(
        &self,
        room: &SharedRoom,
        sender: &UserId,
        kind: TimelineEventType,
        content: &Value,
    ) -> Result<(), RoomError> {
        self.set_state(room, sender, kind, "", content).await
    }

    /// Ends a group: nobody comes in any more, everybody is put out, and who ended it goes last.
    ///
    /// Who can't be put out (an owner beside this one) stays in a room in which nothing can be said.
    pub async fn dissolve(&self, room: &SharedRoom, sender: &UserId) -> Result<(), RoomError> {
        let power_levels = self.power_levels(room).await?;
        if Role::of(&power_levels, sender) != Role::Owner {
            return Err(RoomError::Forbidden("only its owner may dissolve a group".into()));
        }
        self.check_joined(room, sender).await?;
        self.set_door(room, sender, Door::Invited).await?;
        self.edit_levels(room, sender, |levels| drop(levels.insert("events_default".into(), OWNER.into()))).await?;
        self.set_state(room, sender, DISSOLVED.into(), "", &json!({ "dissolved": true })).await?;
        let members: Vec<OwnedUserId> = self
            .whole_state(room)
            .await?
            .iter()
            .filter(|event| event.pdu.kind == TimelineEventType::RoomMember)
            .filter(|event| {
                let is_in = [MembershipState::Join, MembershipState::Invite, MembershipState::Knock];
                membership_of(&event.pdu).is_some_and(|membership| is_in.contains(&membership))
            })
            .filter_map(|event| event.pdu.state_key.as_deref()?.try_into().ok())
            .filter(|user_id: &OwnedUserId| user_id != sender && Role::of(&power_levels, user_id) != Role::Owner)
            .collect();
        let out = |user_id: &UserId| {
            let content = member_content(
                &MembershipState::Leave,
                &MemberProfile::default(),
                Some("the group was dissolved"),
                None,
            );
            member_draft(sender, user_id, &content)
        };
        for some in members.chunks(AT_ONCE) {
            let drafts = some.iter().map(|user_id| out(user_id)).collect::<Result<Vec<Draft>, _>>()?;
            self.append(room, &drafts, None, &|_| ()).await?;
        }
        self.append(room, &[out(sender)?], None, &|_| ()).await.map(drop)
    }

    async fn check_is_in(&self, room: &SharedRoom, user_id: &UserId) -> Result<(), RoomError> {
        match self.membership(room, user_id).await? {
            Some(MembershipState::Join) => Ok(()),
            _ => Err(RoomError::NotFound(format!("{user_id} is not in the group"))),
        }
    }

    async fn set_state(
        &self,
        room: &SharedRoom,
        sender: &UserId,
        kind: TimelineEventType,
        state_key: &str,
        content: &Value,
    ) -> Result<(), RoomError> {
        let wish = Wish {
            sender: sender.to_owned(),
            kind,
            content: to_raw_value(content).map_err(|error| RoomError::BadContent(error.to_string()))?,
            state_key: Some(state_key.to_owned()),
            redacts: None,
            transaction: None,
        };
        self.send(room, wish).await.map(drop)
    }

    /// Changes who may do what. On one node one after the other, so that no change is lost.
    async fn edit_levels(
        &self,
        room: &SharedRoom,
        sender: &UserId,
        edit: impl FnOnce(&mut Map<String, Value>),
    ) -> Result<(), RoomError> {
        let _one_at_a_time = room.levels.lock().await;
        let held: Option<Map<String, Value>> = self.state_content(room, StateEventType::RoomPowerLevels).await?;
        let mut levels = held.unwrap_or_default();
        let before = levels.clone();
        edit(&mut levels);
        if levels == before {
            return Ok(());
        }
        self.set_state(room, sender, TimelineEventType::RoomPowerLevels, "", &Value::Object(levels)).await
    }
}

/// `None`: the level that everybody has.
fn set_level(levels: &mut Map<String, Value>, user_id: &UserId, level: Option<i64>) {
    let users = levels.entry("users").or_insert_with(|| json!({}));
    let Some(users) = users.as_object_mut() else { return };
    match level {
        Some(level) => users.insert(user_id.to_string(), level.into()),
        None => users.remove(user_id.as_str()),
    };
}
