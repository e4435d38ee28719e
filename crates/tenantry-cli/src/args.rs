//! The command line: commands, options and help texts.

mod user;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::styling::AnsiColor;
use clap::builder::{PossibleValuesParser, Styles};
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum, value_parser};
use tenantry::Scope;
use tenantry_http::{Network, Origin, PublicUrl};

pub(crate) use user::{
    DeleteUsers, FilterArgs, List, ManyUsers, Profile, SuspendUsers, UpdateUser,
};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failure, 2 usage, 3 not found, 4 conflict (email, id or path taken, version mismatch), \
5 invalid input, 6 busy (try again), 7 store unusable (corrupt, incompatible, not a store), 8 permission \
denied, read-only or user suspended, 130 interrupted.";

/// Where completions are installed, by shell.
pub(crate) const COMPLETION_LOCATIONS: &str = "\
Install locations:
  bash        tenantry completions bash > ~/.local/share/bash-completion/completions/tenantry
  elvish      tenantry completions elvish >> ~/.config/elvish/rc.elv
  fish        tenantry completions fish > ~/.config/fish/completions/tenantry.fish
  nushell     tenantry completions nushell | save ~/.config/nushell/autoload/tenantry.nu
  powershell  tenantry completions powershell >> $PROFILE
  zsh         tenantry completions zsh > ~/.zfunc/_tenantry
              (with `fpath+=~/.zfunc` before `compinit` in ~/.zshrc)";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Keeps the users of a multi-tenant application and their files: one SQLite file, and a directory
/// for each user.
///
/// A USER is named by the id or the email address. Data goes to standard output, everything else to
/// standard error.
#[derive(Debug, Parser)]
#[command(name = "tenantry", version, max_term_width = 100, after_help = EXIT_CODES, styles = STYLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The directory that holds the store [default: $TENANTRY_DATA_DIR, or else $STATE_DIRECTORY,
    /// or else $XDG_DATA_HOME/tenantry, which is usually ~/.local/share/tenantry]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Don't keep a copy of the database in backups/ before an upgrade
    #[arg(long, global = true, help_heading = "Global options", hide_short_help = true)]
    pub(crate) no_snapshot: bool,
    /// Allow a store on a network file system, where its guarantees don't hold and data can be lost
    #[arg(long, global = true, help_heading = "Global options", hide_short_help = true)]
    pub(crate) allow_network_fs: bool,
    /// How to print data [default: table on a terminal, else jsonl]
    #[arg(
        short = 'o',
        long,
        global = true,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub(crate) format: Option<FormatName>,
    /// The fields of users, usages or findings to print, separated by commas
    #[arg(
        long,
        global = true,
        value_name = "FIELDS",
        value_delimiter = ',',
        help_heading = "Global options"
    )]
    pub(crate) columns: Option<Vec<String>>,
    /// When to use colours
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        help_heading = "Global options",
        hide_short_help = true
    )]
    pub(crate) color: Color,
    /// Log changes to standard error, with the ids of the users; repeat for more detail
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Global options", hide_short_help = true)]
    pub(crate) verbose: u8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Nushell,
    Powershell,
    Zsh,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatName {
    /// For people: the most used fields, cut to the width of the terminal, with ages and rounded
    /// sizes
    Table,
    /// For people: all fields, whole and exact
    Wide,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// Comma-separated values with a header
    Csv,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create, look up, list, change, delete, restore and purge users, and move them between stores
    #[command(subcommand)]
    User(UserCommand),
    /// Create or update users from a file
    ///
    /// The columns of the CSV file, or the keys of each object of JSON, are the fields of a user:
    /// id, email, created_at, last_login_at, storage_path, updated_at, version, suspended_at,
    /// external_id, name, attributes. Only email is required.
    Import(Import),
    /// Write all users to a file, in the order of creation and from one snapshot
    Export(Export),
    /// List users who are deleted but not purged; see `user restore` and `user purge`
    #[command(subcommand)]
    Trash(TrashCommand),
    /// Find, measure and adopt the users' directories
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Check the database against the directories, and repair what can be repaired without loss
    ///
    /// A check reads everything, and changes nothing without --repair. The exit code is 0 only
    /// without findings.
    Check(Check),
    /// Back up a store in use; verify, list and restore backups, or one user of them
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Print the changes of users in the order of their commits, as one JSON object a line
    ///
    /// Each line has the cursor from which to go on. The store keeps the changes of 30 days, and a
    /// million of them however old they are.
    Changes(Changes),
    /// Show the location, version and size of the store
    Status,
    /// Serve the store over HTTP until a signal ends it, and create the store if there is none
    ///
    /// By default on a unix socket, on which processes of this user and of root may do everything:
    /// $RUNTIME_DIRECTORY/tenantry.sock, or else tenantry.sock in the data directory.
    Serve(Serve),
    /// Create, list, rotate and revoke tokens, by which clients of the service are known
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the completions for a shell
    #[command(after_long_help = COMPLETION_LOCATIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// The directory; it is created if it is missing
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Create a user, and the store if there is none
    Create(CreateUser),
    /// Show a user
    #[command(visible_alias = "show")]
    Get {
        /// The id or the email address
        user: String,
    },
    /// List users in the order of creation, or of logins
    #[command(visible_alias = "ls")]
    List(List),
    /// Change a user
    Update(UpdateUser),
    /// Change a user's email address, as `update --email` does
    Rename {
        /// The id or the email address
        user: String,
        /// The new email address
        email: String,
        /// Change the user only if this is their version
        #[arg(long, value_name = "N")]
        expect_version: Option<u64>,
    },
    /// Count users: all, or those who meet the conditions
    Count(FilterArgs),
    /// Suspend users, who can't sign in from then on
    ///
    /// One user is named, or users are chosen by conditions. For those their number is shown, and a
    /// question asked.
    Suspend(SuspendUsers),
    /// Let a suspended user sign in again
    Resume {
        /// The id or the email address
        user: String,
    },
    /// Record that a user logged in
    Login {
        /// The id or the email address
        user: String,
        /// Create the user if there is none with this address
        #[arg(long)]
        create: bool,
    },
    /// Move users to the trash, with their directories
    ///
    /// They are named, or chosen by conditions. For those the number of users is shown, and a
    /// question asked.
    #[command(visible_alias = "rm")]
    Delete(DeleteUsers),
    /// Bring a user back from the trash, with their directory
    Restore {
        /// The id, as `tenantry trash list` shows it, or the email address if only one user in the
        /// trash has it
        user: String,
        /// A new email address, if another user has the old one
        #[arg(long)]
        email: Option<String>,
    },
    /// Show what was done to a user, when and by whom, the newest change first
    History {
        /// The id, also of a user who was purged, or the email address
        user: String,
        /// How many changes to show at most
        #[arg(long, value_name = "N", default_value = "50", value_parser = value_parser!(u16).range(1..=1000))]
        limit: u16,
        /// Continue where the page before this one ended
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Destroy users in the trash for good, with their files
    Purge(Purge),
    /// Write one user, with their files, to an archive (tar in zstd), for the same store or another
    ExportArchive {
        /// The id or the email address
        user: String,
        /// The new file
        file: PathBuf,
    },
    /// Create the user who is in an archive, with their files, and the store if there is none
    ///
    /// The id, the address, the storage path, the times and the version are those of the user who
    /// was exported. Nothing is imported if another user has, or had, one of the first three.
    ImportArchive {
        /// The archive
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateUser {
    /// The email address
    pub(crate) email: String,
    /// The id, a UUID of version 4 [default: a random one]
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<String>,
    /// The storage path [default: derived from the id]
    #[arg(long, value_name = "PATH")]
    pub(crate) storage_path: Option<String>,
    /// Adopt the existing directory at the storage path
    #[arg(long, requires = "storage_path")]
    pub(crate) adopt: bool,
    #[command(flatten)]
    pub(crate) profile: Profile,
    /// What to do if the address looks like that of another user
    #[arg(long, value_name = "POLICY", default_value = "warn")]
    pub(crate) on_lookalike: OnLookalike,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("selection").required(true).args(["id", "older_than"])))]
pub(crate) struct Purge {
    /// The id, as `tenantry trash list` shows it
    pub(crate) id: Option<String>,
    /// All users who were deleted longer ago than this, such as 30d or 36h
    #[arg(long, value_name = "DURATION")]
    pub(crate) older_than: Option<String>,
    /// Don't ask; required without a terminal
    #[arg(long)]
    pub(crate) yes: bool,
    /// Destroy nothing, and list the users who would be purged
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TrashCommand {
    /// List the users in the trash, in the order of deletion
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StorageCommand {
    /// Print the path of a user's directory, which is created if it doesn't exist
    Path {
        /// The id or the email address
        user: String,
    },
    /// Measure the directory of one user or of all, and list the largest
    #[command(visible_alias = "du")]
    Usage {
        /// The id or the email address [default: all users]
        user: Option<String>,
        /// How many users to list
        #[arg(long, value_name = "N", default_value = "20", conflicts_with = "user", value_parser = value_parser!(u32).range(1..))]
        top: u32,
        /// Show the last measurement, without a new one
        #[arg(long)]
        stored: bool,
    },
    /// Give a user an existing directory under storage/
    Adopt {
        /// The id or the email address
        user: String,
        /// The path of the directory within storage/
        dir: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Write the database and the users' files, as they are now, to one archive (tar in zstd)
    Create {
        /// The new file, or with --keep the directory for it [default: tenantry-TIME.tar.zst]
        file: Option<PathBuf>,
        /// Leave out the users' files
        #[arg(long)]
        database_only: bool,
        /// Write tenantry-TIME.tar.zst into the directory, and remove all but the newest N of such
        /// files from it
        #[arg(long, value_name = "N", requires = "file", value_parser = value_parser!(u32).range(1..))]
        keep: Option<u32>,
    },
    /// Read a backup from beginning to end, compare each hash, and check the database in it
    Verify {
        /// The archive
        file: PathBuf,
    },
    /// List the users in a backup, including those in its trash, without restoring it
    List {
        /// The archive
        file: PathBuf,
        /// Only the user with this id or email address
        #[arg(long)]
        user: Option<String>,
    },
    /// Restore a backup into a directory that is new or empty, or one user of it into the store
    Restore(Restore),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("what").required(true).args(["into", "user"])))]
pub(crate) struct Restore {
    /// The archive
    pub(crate) file: PathBuf,
    /// The new data directory
    #[arg(long, value_name = "DIR")]
    pub(crate) into: Option<PathBuf>,
    /// Restore only this user (the id or the email address) into the store of --data-dir, with the
    /// missing files; no existing file is replaced
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// With --user: restore a purged user, with a new id
    #[arg(long, conflicts_with = "into")]
    pub(crate) even_if_purged: bool,
    /// With --user: change nothing, and report what would be done
    #[arg(long, conflicts_with = "into")]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Create a token, and print its secret, which is shown this once
    Create(CreateToken),
    /// List all tokens, with those that have expired or were revoked
    #[command(visible_alias = "ls")]
    List,
    /// Make another secret of a token, and let those before end after a while
    Rotate {
        /// The name of the token
        name: String,
        /// How long the secrets before stay valid, such as 24h
        #[arg(long, value_name = "DURATION", default_value = "24h")]
        overlap: String,
    },
    /// Revoke all secrets of a token, at once
    Revoke(RevokeToken),
}

#[derive(Debug, Args)]
pub(crate) struct CreateToken {
    /// The name: 1 to 64 letters, digits, `.`, `_` and `-`. It stands in the record of who did
    /// what, and is never given to another token
    pub(crate) name: String,
    /// What the bearer may do; several are separated by commas
    #[arg(long, value_name = "SCOPES", required = true, value_delimiter = ',', value_parser = PossibleValuesParser::new(Scope::ALL.iter().map(|scope| scope.name())))]
    pub(crate) scope: Vec<String>,
    /// Let the token reach this user (the id or the email address) and their files alone
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// How long the token is valid, such as 90d
    #[arg(long, value_name = "DURATION", default_value = "365d")]
    pub(crate) expires: String,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).args(["name", "all"])))]
pub(crate) struct RevokeToken {
    /// The name of the token
    pub(crate) name: Option<String>,
    /// Revoke all tokens, as after a restore of a backup, in which revoked ones are valid again
    #[arg(long)]
    pub(crate) all: bool,
    /// With --all: don't ask; required without a terminal
    #[arg(long, conflicts_with = "name")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Changes {
    /// Only the changes behind this cursor, or behind all that there are: `now` [default: from the
    /// oldest change that is kept]
    #[arg(long, value_name = "CURSOR")]
    pub(crate) after: Option<String>,
    /// How many changes to print at most
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Wait for further changes, and print each as soon as it is committed, until a signal ends
    /// that
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Print nothing, and set whether logins are among the changes from now on
    #[arg(long, value_name = "SWITCH", conflicts_with_all = ["after", "limit", "follow"])]
    pub(crate) logins: Option<Switch>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Repair without loss: complete interrupted operations, set modes, record existing
    /// directories, move orphans to quarantine/
    #[arg(long)]
    pub(crate) repair: bool,
    /// With --repair: change nothing, and report what would be done
    #[arg(long, requires = "repair")]
    pub(crate) dry_run: bool,
    /// With --repair: repair even if more than 10 % of the directories are orphans
    #[arg(long, requires = "repair")]
    pub(crate) even_if_many: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Listen on unix:PATH or IP:PORT, instead of the default socket; repeat for more. Port 0
    /// chooses a free one
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<Address>,
    /// Offer /metrics, /livez and /readyz on an address of their own, without tokens
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<Address>,
    /// Encrypt TCP connections with this certificate and its chain, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Allow addresses that other machines can reach, without encryption
    #[arg(long)]
    pub(crate) insecure_http: bool,
    /// The URL at which clients reach the service, such as https://users.example.com
    #[arg(long, value_name = "URL")]
    pub(crate) public_url: Option<PublicUrl>,
    /// Believe X-Forwarded-For of a proxy with this IP address, or one of such a range as
    /// 10.0.0.0/8; repeat for more
    #[arg(long, value_name = "NETWORK")]
    pub(crate) trusted_proxy: Vec<Network>,
    /// Let web pages of this origin use the API (CORS), such as https://app.example.com; repeat for
    /// more
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) allow_origin: Vec<Origin>,
    /// How many connections to serve at once [default: 1024, or what the limit of open files
    /// allows]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) max_connections: Option<u32>,
    /// Refuse changes of a user that don't name a version with If-Match
    #[arg(long)]
    pub(crate) require_if_match: bool,
    /// How long an uploaded file may be: bytes, or with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub(crate) max_file: Size,
    /// How long the files of a user may be together [default: without a limit]
    #[arg(long, value_name = "SIZE")]
    pub(crate) max_user_bytes: Option<Size>,
}

/// A number of bytes, as people write it: `1G` is 1,073,741,824.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => 0,
            "K" | "KIB" => 10,
            "M" | "MIB" => 20,
            "G" | "GIB" => 30,
            "T" | "TIB" => 40,
            _ => return Err("expected a number of bytes, or one with K, M, G or T, such as 500M"),
        };
        let number: u64 = digits.parse().map_err(|_| "expected a number of bytes, such as 500M")?;
        number.checked_mul(1 << shift).map(Self).ok_or("the size is too large")
    }
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err("the path is missing"),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| "expected unix:PATH or IP:PORT, such as 127.0.0.1:8080"),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file to read, or - for standard input
    pub(crate) file: PathBuf,
    /// The format [default: by the file's extension, else jsonl]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) from: Option<FileFormat>,
    /// Map a field to a CSV column or JSON key with another name; repeat for more. With an empty
    /// name, as in id=, the field isn't read
    #[arg(long, value_name = "FIELD=COLUMN")]
    pub(crate) map: Vec<String>,
    /// Ignore columns and keys that aren't fields, and report them on standard error
    #[arg(long)]
    pub(crate) ignore_unknown: bool,
    /// What to do with a row whose user exists
    #[arg(long, value_name = "POLICY", default_value = "fail")]
    pub(crate) on_conflict: OnConflict,
    /// What to do with a new user whose address looks like that of another one
    #[arg(long, value_name = "POLICY", default_value = "warn")]
    pub(crate) on_lookalike: OnLookalike,
    /// The file for the rejected rows, with line and reason [needs --on-conflict skip or update]
    #[arg(long, value_name = "FILE")]
    pub(crate) rejects: Option<PathBuf>,
    /// Change nothing, and report what would happen
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file to write, or - for standard output
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// The format [default: by the file's extension, else jsonl]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) to: Option<FileFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    /// Comma-separated values with a header
    Csv,
    /// One JSON object a line
    Jsonl,
    /// One JSON array of objects; --from json and jsonl read either
    Json,
}

impl From<FileFormat> for tenantry_exchange::Format {
    fn from(format: FileFormat) -> Self {
        match format {
            FileFormat::Csv => Self::Csv,
            FileFormat::Jsonl => Self::Jsonl,
            FileFormat::Json => Self::Json,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnConflict {
    /// Import nothing, and report the row
    Fail,
    /// Leave the existing user unchanged, and import the other rows
    Skip,
    /// Give the existing user the values of the row that can change, and the last login if later
    Update,
}

impl From<OnConflict> for tenantry::OnConflict {
    fn from(policy: OnConflict) -> Self {
        match policy {
            OnConflict::Fail => Self::Fail,
            OnConflict::Skip => Self::Skip,
            OnConflict::Update => Self::Update,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLookalike {
    /// Create the user, and report the other one on standard error
    Warn,
    /// Don't create the user
    Refuse,
    /// Create the user without a check
    Ignore,
}

impl From<OnLookalike> for tenantry_exchange::OnConfusable {
    fn from(policy: OnLookalike) -> Self {
        match policy {
            OnLookalike::Warn => Self::Warn,
            OnLookalike::Refuse => Self::Refuse,
            OnLookalike::Ignore => Self::Ignore,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use tenantry::User;

    use super::*;

    #[test]
    fn a_size_is_a_number_of_bytes_or_of_their_multiples() {
        let size = |text: &str| text.parse().ok().map(|Size(bytes)| bytes);
        for (text, bytes) in [
            ("0", 0),
            ("1500", 1_500),
            ("1K", 1 << 10),
            ("3m", 3 << 20),
            ("1G", 1 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "G", "-1", "1.5G", "1 G", "1P", "99999999999999999999", "99999999T"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn every_field_of_a_user_is_in_the_help_of_import() {
        let mut command = Cli::command();
        let help = command.find_subcommand_mut("import").unwrap().render_long_help().to_string();
        let fields = User::FIELDS.join(", ");
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(&format!("{fields}.")), "{help}");
    }
}
