//! The endpoints of `/v1`: a file for each kind of resource, with its routes first.

pub(crate) mod status;
pub(crate) mod trash;
pub(crate) mod usage;
pub(crate) mod users;
