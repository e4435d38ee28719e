//! `tenantry user …`.

use std::io::{self, BufRead, IsTerminal};
use std::time::SystemTime;

use jiff::{Span, SpanRelativeTo};
use tenantry::{
    Cursor, Email, ErrorKind, Filter, ListQuery, NewUser, ReadTx, Store, Timestamp, User, UserId, UserUpdate,
};
use tenantry_exchange::printable;

use crate::archive;
use crate::args::{List, OnLookalike, UserCommand};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, RecordList, USERS, counted};
use crate::place::Place;
use crate::stdio::{self, tell};
use crate::trash;

pub(crate) async fn run(place: &Place, format: Format<'_>, command: UserCommand) -> Result<(), Failure> {
    // What was typed is checked before the store is opened, so that a mistake never creates one.
    match command {
        UserCommand::Create { email, id, storage_path, adopt, on_lookalike } => {
            let new = NewUser {
                id: id.map(|id| id.parse()).transpose()?,
                storage_path: storage_path.map(|path| path.parse()).transpose()?,
                ..NewUser::new(email.parse()?)
            };
            if let Some(scratch) = place.scratch().await? {
                // An argument that is refused makes no store.
                let tried = create(&scratch, new.clone(), adopt, OnLookalike::Ignore).await;
                scratch.remove().await?;
                tried?;
            }
            let store = place.open_or_create().await?;
            let created = create(&store, new, adopt, on_lookalike).await;
            finish(&store, created).await.and_then(|user| changed("user create", format, &user))
        }
        UserCommand::Get { user } => {
            let who = Who::parse(&user)?;
            let store = place.open().await?;
            let found = store.read(|tx| who.find(tx)).await;
            finish(&store, found).await.and_then(|user| output::user(format, &user))
        }
        UserCommand::List(list) => {
            let all = list.all;
            let query = query(list)?;
            let store = place.open().await?;
            let printed = print_list(&store, format, query, all).await;
            finish(&store, printed).await
        }
        UserCommand::Update { user, email, expect_version } | UserCommand::Rename { user, email, expect_version } => {
            update(place, format, &user, &email, expect_version).await
        }
        UserCommand::Login { user, create } => {
            let who = Who::parse(&user)?;
            let logged_in = match (who, create) {
                (Who::Email(email), true) => {
                    let store = place.open_or_create().await?;
                    let signed_in = finish(&store, store.sign_in(email).await.map_err(Failure::from)).await?;
                    if signed_in.is_new {
                        tell!("created the user");
                    }
                    signed_in.user
                }
                (Who::Id(_), true) => {
                    return Err(Failure::new(Exit::Usage, "--create needs an email address, not an id"));
                }
                (who, false) => {
                    let store = place.open().await?;
                    let recorded = store
                        .write(move |tx| {
                            let id = who.find(tx)?.id;
                            tx.record_login(id).map_err(Failure::from)
                        })
                        .await;
                    finish(&store, recorded).await?
                }
            };
            changed("user login", format, &logged_in)
        }
        UserCommand::Delete { users, yes } => {
            let whom = users.iter().map(|user| Who::parse(user)).collect::<Result<Vec<_>, _>>()?;
            let store = place.open().await?;
            let deleted = delete(&store, &users, &whom, yes).await;
            finish(&store, deleted).await
        }
        UserCommand::Restore { user, email } => {
            let who = Who::parse(&user)?;
            let email = email.map(|email| email.parse()).transpose()?;
            let store = place.open().await?;
            let restored = trash::restore(&store, &who, email).await;
            finish(&store, restored).await.and_then(|user| changed("user restore", format, &user))
        }
        UserCommand::ExportArchive { user, file } => archive::export(place, format, &Who::parse(&user)?, &file).await,
        UserCommand::ImportArchive { file } => archive::import(place, format, &file).await,
        UserCommand::Purge(args) => trash::purge(place, format, args).await,
    }
}

async fn update(
    place: &Place,
    format: Format<'_>,
    user: &str,
    email: &str,
    expected_version: Option<u64>,
) -> Result<(), Failure> {
    let who = Who::parse(user)?;
    let update = UserUpdate { email: Some(email.parse()?), expected_version };
    let store = place.open().await?;
    let updated = store
        .write(move |tx| {
            let id = who.find(tx)?.id;
            tx.update(id, &update).map_err(Failure::from)
        })
        .await;
    finish(&store, updated).await.and_then(|user| changed("user update", format, &user))
}

async fn create(store: &Store, new: NewUser, adopt: bool, on_lookalike: OnLookalike) -> Result<User, Failure> {
    let (user, alike) = store
        .write(move |tx| {
            let mut user = tx.create(&new)?;
            let alike = match on_lookalike {
                OnLookalike::Ignore => None,
                OnLookalike::Warn | OnLookalike::Refuse => tx.look_alikes(&new.email)?.into_iter().next(),
            };
            if let (OnLookalike::Refuse, Some(other)) = (on_lookalike, &alike) {
                let message = format!("{}; --on-lookalike warn creates the user all the same", looks_like(other));
                return Err(Failure::new(Exit::Conflict, message));
            }
            if adopt {
                user = tx.adopt(user.id, &user.storage_path)?;
            }
            Ok((user, alike))
        })
        .await?;
    if let Some(other) = alike {
        tell!("{}: are they the same person?", looks_like(&other));
    }
    Ok(user)
}

fn looks_like(other: &User) -> String {
    format!("the address looks like that of {} ({})", printable(other.email.as_str()), other.id)
}

/// Notes in the log what was done to a user. Addresses are personal data, and have no place there.
pub(crate) fn did(verb: &str, user: UserId) {
    tracing::info!(target: "tenantry", %user, "{verb}");
}

/// Notes and prints the user after a change, which has happened even if nobody can be shown.
pub(crate) fn changed(verb: &str, format: Format<'_>, user: &User) -> Result<(), Failure> {
    did(verb, user.id);
    output::user(format, user).map_err(|failure| failure.saying("the change itself was made"))
}

/// Closes the store, whatever came of the command.
pub(crate) async fn finish<T>(store: &Store, result: Result<T, Failure>) -> Result<T, Failure> {
    store.close().await?;
    result
}

/// How a user is named on the command line.
pub(crate) enum Who {
    Id(UserId),
    Email(Email),
}

impl Who {
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        if text.contains('@') {
            return Ok(Self::Email(text.parse()?));
        }
        text.parse().map(Self::Id).map_err(|_| {
            let text = printable(text);
            Failure::new(
                Exit::Invalid,
                format!("\"{text}\" is neither an email address nor the id of a user, a UUID of version 4"),
            )
        })
    }

    /// Finds the user, or says why there is none.
    pub(crate) fn find(&self, tx: &ReadTx<'_>) -> Result<User, Failure> {
        match self {
            Self::Id(id) => match tx.get(*id)? {
                Some(user) => Ok(user),
                None => Err(trash::missing(tx, *id, "there is no user with this id")?),
            },
            Self::Email(email) => match tx.get_by_email(email)? {
                Some(user) => Ok(user),
                None => Err(trash::missing_email(tx, email)?),
            },
        }
    }
}

/// Moves users to the trash, or none of them if one isn't there from the beginning.
async fn delete(store: &Store, named: &[String], whom: &[Who], yes: bool) -> Result<(), Failure> {
    let mut users: Vec<User> = Vec::new();
    let finding = |tx: &ReadTx<'_>| -> Result<(), Failure> {
        for (name, who) in named.iter().zip(whom) {
            let user = who.find(tx).map_err(|failure| match whom.len() {
                1 => failure,
                _ => failure.of(&printable(name)).saying("nothing was deleted"),
            })?;
            if users.iter().all(|other| other.id != user.id) {
                users.push(user);
            }
        }
        Ok(())
    };
    store.read(finding).await?;
    confirm(yes, "deleted", || match &users[..] {
        [user] => format!("Move {} ({}) to the trash?", printable(user.email.as_str()), user.id),
        users => format!("Move {} to the trash?", counted(users.len() as u64, "user")),
    })?;
    for (index, user) in users.iter().enumerate() {
        delete_one(store, user).await.map_err(|failure| match index {
            0 => failure,
            _ => failure.of(&user.id.to_string()).saying("those before were deleted"),
        })?;
    }
    Ok(())
}

async fn delete_one(store: &Store, user: &User) -> Result<(), Failure> {
    match store.delete(user.id).await {
        Ok(user) => {
            did("user delete", user.id);
            tell!(
                "moved {} ({}) to the trash; `tenantry user restore {}` brings them back",
                printable(user.email.as_str()),
                user.id,
                user.id
            );
        }
        // Somebody else was faster; what was asked for is so.
        Err(error) if error.kind() == ErrorKind::NotFound => tell!("the user was deleted meanwhile"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Asks before something is done, unless the answer was given beforehand.
pub(crate) fn confirm(yes: bool, done: &str, question: impl FnOnce() -> String) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Err(Failure::new(
            Exit::Usage,
            format!("nothing was {done}: without a terminal to ask on, it needs --yes"),
        ));
    }
    let mut answer = String::new();
    let asked = stdio::ask(&question()).and_then(|()| io::stdin().lock().read_line(&mut answer));
    asked.map_err(|error| Failure::io("asking", &error))?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Exit::Failure, format!("nothing was {done}")))
}

async fn print_list(store: &Store, format: Format<'_>, mut query: ListQuery, all: bool) -> Result<(), Failure> {
    let mut list = RecordList::new(format, &USERS)?;
    loop {
        let page = store.list(&query).await?;
        list.add(&page.users)?;
        match page.next_cursor {
            Some(cursor) if all => query.cursor = Some(cursor),
            next => return list.finish_page(next),
        }
    }
}

fn query(list: List) -> Result<ListQuery, Failure> {
    let time = |text: Option<String>| text.map(|text| time(&text)).transpose();
    Ok(ListQuery {
        limit: list.limit.into(),
        cursor: list.cursor.map(|cursor| cursor.parse::<Cursor>()).transpose()?,
        filter: Filter {
            email_prefix: list.email_prefix,
            email_contains: list.contains,
            created_after: time(list.created_after)?,
            created_before: time(list.created_before)?,
            inactive_since: list.inactive_for.map(|duration| ago(&duration)).transpose()?,
            never_logged_in: list.never_logged_in,
        },
    })
}

/// A time, or the first moment of a day in UTC.
fn time(text: &str) -> Result<Timestamp, Failure> {
    let of_day = || format!("{text}T00:00:00Z").parse().ok();
    text.parse::<Timestamp>().or_else(|error| of_day().ok_or(error)).map_err(|error| {
        Failure::new(Exit::Invalid, format!("\"{}\": {error}; a date such as 2026-11-23 will do too", printable(text)))
    })
}

/// The moment this long before now.
#[allow(clippy::disallowed_methods, reason = "the person's now; the store has its own")]
pub(crate) fn ago(duration: &str) -> Result<Timestamp, Failure> {
    let span: Option<Span> = duration.parse().ok();
    let length = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let length = length.and_then(|length| std::time::Duration::try_from(length).ok());
    let length = length.ok_or_else(|| {
        Failure::new(Exit::Invalid, format!("{duration:?} is not a duration such as 180d, 36h or 2w"))
    })?;
    Ok(Timestamp::from(SystemTime::now()).saturating_sub(length))
}
