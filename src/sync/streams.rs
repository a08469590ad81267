//! One file for each kind of thing that a sync tells.

pub(crate) mod account_data;
pub(crate) mod device_lists;
pub(crate) mod events;
pub(crate) mod presence;
pub(crate) mod receipts;
pub(crate) mod to_device;
pub(crate) mod typing;
