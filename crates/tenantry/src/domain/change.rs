/// The kinds of changes of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Created,
    Updated,
    Suspended,
    Resumed,
    LoggedIn,
    Deleted,
    Restored,
    Purged,
    /// The user got a directory that existed.
    Adopted,
    /// The user, or their files, came back out of a backup.
    BroughtBack,
}

impl Change {
    pub(crate) const ALL: [Self; 10] = [
        Self::Created,
        Self::Updated,
        Self::Suspended,
        Self::Resumed,
        Self::LoggedIn,
        Self::Deleted,
        Self::Restored,
        Self::Purged,
        Self::Adopted,
        Self::BroughtBack,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Suspended => "suspended",
            Self::Resumed => "resumed",
            Self::LoggedIn => "logged_in",
            Self::Deleted => "deleted",
            Self::Restored => "restored",
            Self::Purged => "purged",
            Self::Adopted => "adopted",
            Self::BroughtBack => "brought_back",
        }
    }
}
