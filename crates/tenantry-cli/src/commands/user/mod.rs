//! `tenantry user …`.

mod archive;

use tenantry::{Cursor, ErrorKind, Filter, ListQuery, NewUser, ReadTx, Store, User, UserUpdate};
use tenantry_exchange::printable;

use crate::args::{List, OnLookalike, UserCommand};
use crate::commands::trash;
use crate::failure::{Exit, Failure};
use crate::moment::{ago, time};
use crate::output::{self, Format, RecordList, USERS, counted};
use crate::place::Place;
use crate::prompt::confirm;
use crate::session::{changed, did, finish};
use crate::stdio::tell;
use crate::who::Who;

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
