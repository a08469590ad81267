//! Who may do more than chat, without being an admin.

use ruma::UserId;

use crate::{Error, Store, Table, Write, args};

static ROLES: Table = Table {
    insert: "INSERT INTO roles (user_id, role)",
    columns: 2,
    conflict: "ON CONFLICT (user_id) DO UPDATE SET role = excluded.role",
    key: 1,
};

/// Gives a user a role.
pub fn put(write: &mut Write, user_id: &UserId, role: &str) {
    write.insert(&ROLES, args![user_id.as_str(), role]);
}

/// Takes a user's role away.
pub fn remove(write: &mut Write, user_id: &UserId) {
    write.run("DELETE FROM roles WHERE user_id = $1", args![user_id.as_str()]);
}

/// Reads roles.
pub struct Roles<'a>(&'a Store);

impl Store {
    /// Reads roles.
    pub fn roles(&self) -> Roles<'_> {
        Roles(self)
    }
}

impl Roles<'_> {
    /// The role of a user.
    pub async fn find(&self, user_id: &UserId) -> Result<Option<String>, Error> {
        const FIND: &str = "SELECT role FROM roles WHERE user_id = $1";
        self.0.query(FIND, args![user_id.as_str()]).await?.first().map(|row| row.text(0)).transpose()
    }
}
