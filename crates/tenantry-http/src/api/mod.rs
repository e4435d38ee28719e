//! The endpoints of `/v1`: a file for each kind of resource, with its routes first.

pub(crate) mod archives;
pub(crate) mod changes;
pub(crate) mod check;
pub(crate) mod status;
pub(crate) mod transfer;
pub(crate) mod trash;
pub(crate) mod usage;
pub(crate) mod users;
