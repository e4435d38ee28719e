//! What the commands on users accept: values, conditions, and which users are meant.

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, ValueEnum, value_parser};

#[derive(Debug, Args)]
pub(crate) struct SuspendUsers {
    /// The id or the email address
    pub(crate) user: Option<String>,
    #[command(flatten)]
    pub(crate) many: ManyUsers,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteUsers {
    /// The ids or the email addresses
    #[arg(value_name = "USER")]
    pub(crate) users: Vec<String>,
    #[command(flatten)]
    pub(crate) many: ManyUsers,
}

/// A change of all users who meet conditions.
#[derive(Debug, Args)]
pub(crate) struct ManyUsers {
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// All users, without any condition
    #[arg(long)]
    pub(crate) all: bool,
    /// Change nothing, and list the users who would be changed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Don't ask; required without a terminal
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What a user may lack.
#[derive(Debug, Args)]
pub(crate) struct Profile {
    /// What people call the user
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The id that another system, such as an identity provider, has for the user
    #[arg(long, value_name = "ID")]
    pub(crate) external_id: Option<String>,
    /// Whatever else to keep with the user: a JSON object, or @FILE to read it from a file
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) attributes: Option<String>,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args([
    "email", "name", "clear_name", "external_id", "clear_external_id", "attributes", "clear_attributes",
])))]
pub(crate) struct UpdateUser {
    /// The id or the email address
    pub(crate) user: String,
    /// The new email address
    #[arg(long)]
    pub(crate) email: Option<String>,
    #[command(flatten)]
    pub(crate) profile: Profile,
    /// Remove the name
    #[arg(long, conflicts_with = "name")]
    pub(crate) clear_name: bool,
    /// Remove the external id
    #[arg(long, conflicts_with = "external_id")]
    pub(crate) clear_external_id: bool,
    /// Remove the attributes
    #[arg(long, conflicts_with = "attributes")]
    pub(crate) clear_attributes: bool,
    /// Change the user only if this is their version
    #[arg(long, value_name = "N")]
    pub(crate) expect_version: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// How many users to list at most, or per page with --all
    #[arg(long, value_name = "N", default_value = "50", value_parser = value_parser!(u16).range(1..=1000))]
    pub(crate) limit: u16,
    /// Continue where a listing ended
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,
    /// The order of the users
    #[arg(long, value_name = "ORDER", default_value = "created")]
    pub(crate) sort: Sort,
    /// List all users, not just the first --limit
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sort {
    /// In the order of creation
    Created,
    /// By the last login, or the creation of users who never logged in: those first who have been
    /// away longest
    LastLogin,
}

impl From<Sort> for tenantry::Order {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Created => Self::Creation,
            Sort::LastLogin => Self::LastLogin,
        }
    }
}

/// Which users: those who meet all conditions.
#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// Only users whose email address begins with this
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) email_prefix: Option<String>,
    /// Only users whose email address contains this
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) contains: Option<String>,
    /// Only users who have not logged in for this long, such as 180d or 36h
    #[arg(long, value_name = "DURATION")]
    pub(crate) inactive_for: Option<String>,
    /// Only users who never logged in
    #[arg(long)]
    pub(crate) never_logged_in: bool,
    /// Only users who are suspended
    #[arg(long)]
    pub(crate) suspended: bool,
    /// Only users who aren't suspended
    #[arg(long, conflicts_with = "suspended")]
    pub(crate) not_suspended: bool,
    /// Only users for whom another system has exactly this id
    #[arg(long, value_name = "ID")]
    pub(crate) external_id: Option<String>,
    /// Only users created at this time or later: RFC 3339, or a date for its first moment in UTC
    #[arg(long, value_name = "TIME")]
    pub(crate) created_after: Option<String>,
    /// Only users created before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) created_before: Option<String>,
}
