//! The domain: the values of operations and their results. It knows no engine, no file system and
//! no transport.

pub(crate) mod actor;
pub(crate) mod attributes;
pub(crate) mod change;
pub(crate) mod confusable;
pub(crate) mod directory;
pub(crate) mod email;
pub(crate) mod fields;
pub(crate) mod intent;
pub(crate) mod list;
pub(crate) mod profile;
pub(crate) mod request;
pub(crate) mod scope;
pub(crate) mod search_text;
pub(crate) mod set;
pub(crate) mod storage_path;
pub(crate) mod timestamp;
pub(crate) mod token;
pub(crate) mod trash;
pub(crate) mod user;
pub(crate) mod user_id;
