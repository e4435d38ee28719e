pub(crate) fn reach(_: &'static str) {}
