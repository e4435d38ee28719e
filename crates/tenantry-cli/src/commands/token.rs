//! `tenantry token …`.

use rustix::process::getuid;
use tenantry::{NewToken, Scope, Scopes, Store, Token, TokenSecret};

use crate::args::{CreateToken, RevokeToken, TokenCommand};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::moment::duration;
use crate::output::{Columns, Format, RecordList, pluralize};
use crate::prompt::confirm;
use crate::session::finish;
use crate::stdio::{self, report};
use crate::user_ref::UserRef;

pub(crate) const TOKENS: Columns = Columns {
    name: "tokens",
    fields: &Token::FIELDS,
    in_table: &["name", "scopes", "user_id", "expires_at", "last_used_at", "revoked_at"],
};

pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    is_format_given: bool,
    command: TokenCommand,
) -> Result<(), Failure> {
    if is_format_given && !matches!(command, TokenCommand::List) {
        return Err(Failure::new(
            Exit::Usage,
            "a secret is printed as it is; --format applies to records",
        ));
    }
    match command {
        TokenCommand::Create(args) => create(dir, args).await,
        TokenCommand::List => {
            let store = dir.open().await?;
            let listed = list(&store, format).await;
            finish(&store, listed).await
        }
        TokenCommand::Rotate { name, overlap } => {
            let overlap = duration(&overlap)?;
            let store = dir.open().await?;
            let rotated =
                store.rotate_token(&name, overlap, &created_by()).await.map_err(Failure::from);
            let (token, secret) = finish(&store, rotated).await?;
            report!(
                "made another secret of the token {}, valid until {}",
                token.name,
                token.expires_at
            );
            print(&token, &secret)
        }
        TokenCommand::Revoke(RevokeToken { name: Some(name), .. }) => {
            let store = dir.open().await?;
            let revoked = store.revoke_token(&name).await.map_err(Failure::from);
            finish(&store, revoked).await?;
            report!("revoked the token {name}");
            Ok(())
        }
        TokenCommand::Revoke(RevokeToken { name: None, yes, .. }) => {
            let store = dir.open().await?;
            let revoked = revoke_all(&store, yes).await;
            let count = finish(&store, revoked).await?;
            report!("revoked {}", pluralize(count as u64, "secret"));
            Ok(())
        }
    }
}

async fn create(dir: &DataDir, args: CreateToken) -> Result<(), Failure> {
    let user = args.user.map(|user| UserRef::parse(&user)).transpose()?;
    let scopes: Scopes =
        args.scope.iter().map(|name| name.parse::<Scope>()).collect::<Result<_, _>>()?;
    let lifetime = duration(&args.expires)?;
    let new = NewToken { lifetime, created_by: created_by(), ..NewToken::new(args.name, scopes) };
    let store = dir.open().await?;
    let created = create_in(&store, new, user).await;
    let (token, secret) = finish(&store, created).await?;
    let reach =
        token.user_id.map_or_else(String::new, |user| format!(", of the user {user} alone"));
    report!(
        "created the token {} with the scopes {}{reach}, valid until {}; its secret is shown this once",
        token.name,
        token.scopes,
        token.expires_at
    );
    print(&token, &secret)
}

async fn create_in(
    store: &Store,
    new: NewToken,
    user: Option<UserRef>,
) -> Result<(Token, TokenSecret), Failure> {
    let user_id = match user {
        Some(user) => Some(user.find_in(store).await?.id),
        None => None,
    };
    Ok(store.create_token(NewToken { user_id, ..new }).await?)
}

/// Prints a secret. One that nobody has seen opens nothing, but nobody can use the token either.
fn print(token: &Token, secret: &TokenSecret) -> Result<(), Failure> {
    stdio::print(format!("{}\n", secret.as_str())).map_err(|failure| {
        let cause = match failure {
            Failure::Message { message, .. } => message,
            Failure::Silent(_) | Failure::BrokenPipe => {
                "the reader of standard output has gone".to_owned()
            }
        };
        let name = &token.name;
        let message =
            format!("{cause}; the secret is lost: `tenantry token rotate {name}` makes another");
        Failure::new(Exit::Failure, message)
    })
}

/// Returns what the store records as who created a token.
fn created_by() -> String {
    format!("command:{}", getuid().as_raw())
}

async fn list(store: &Store, format: Format<'_>) -> Result<(), Failure> {
    let mut list = RecordList::new(format, &TOKENS)?;
    list.add(&store.tokens().await?)?;
    list.finish(&[])
}

async fn revoke_all(store: &Store, yes: bool) -> Result<usize, Failure> {
    confirm(yes, "revoked", || {
        "Revoke all tokens? Every client of the service needs a new one.".to_owned()
    })?;
    Ok(store.revoke_all_tokens().await?)
}
