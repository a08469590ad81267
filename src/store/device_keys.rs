//! The keys of devices and users, and whose changed when.

use ruma::UserId;

use crate::{Arg, Table, Write, args};

static DEVICE_LIST_CHANGES: Table =
    Table { insert: "INSERT INTO device_list_changes (position, user_id)", columns: 2, conflict: "", key: 0 };

/// Notes that the devices or keys of a user changed, at the position that tells it.
pub fn insert_device_list_change(write: &mut Write, user_id: &UserId, position: Arg) {
    let mut row = vec![position];
    row.extend(args![user_id.as_str()]);
    write.insert(&DEVICE_LIST_CHANGES, row);
}
