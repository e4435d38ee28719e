//! The values that a user may lack, as the command line has them.

use std::fs::File;
use std::io::Read;

use tenantry::{Attributes, ExternalId, Name};

use crate::args::Profile;
use crate::failure::{Exit, Failure};

/// The longest file of attributes that is read. Space between the tokens, which is removed, may
/// make it longer than the attributes themselves may be.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The parsed values.
pub(super) struct Values {
    pub(super) name: Option<Name>,
    pub(super) external_id: Option<ExternalId>,
    pub(super) attributes: Option<Attributes>,
}

impl Profile {
    pub(super) fn parse(self) -> Result<Values, Failure> {
        Ok(Values {
            name: self.name.map(|name| name.parse()).transpose()?,
            external_id: self.external_id.map(|id| id.parse()).transpose()?,
            attributes: self.attributes.map(|text| attributes(&text)).transpose()?,
        })
    }
}

/// Parses a JSON object, or reads one from the file after an `@`.
fn attributes(text: &str) -> Result<Attributes, Failure> {
    let Some(path) = text.strip_prefix('@') else { return Ok(text.parse()?) };
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| Failure::io(path, &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::new(Exit::Invalid, format!("{path}: longer than 1 MiB")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::new(Exit::Invalid, format!("{path}: not UTF-8")))?;
    text.parse().map_err(|error: tenantry::Error| Failure::from(error).with_subject(path))
}
