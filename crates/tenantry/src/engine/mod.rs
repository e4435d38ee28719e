//! The parts that every engine has, and the choice of the engine: the one place outside of its own
//! module that names it.

pub(crate) mod metrics;
pub(crate) mod queue;
pub(crate) mod reply;
pub(crate) mod token_cache;
pub(crate) mod verbs;

pub(crate) use crate::sqlite::{
    ENGINE_FILES, Engine, Follower, Inspection, ReadSession, Row, Snapshot, Status, Tx, Upgrade,
    WriteSession, Written, schema_failure, settle,
};
