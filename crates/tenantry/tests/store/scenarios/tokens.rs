//! Tokens: what they are known by, how long, and what is kept of them.

use std::time::Duration;

use tenantry::{Authentication, ErrorKind, NewToken, Purge, Scope, Scopes, Token, TokenSecret};

use super::create;
use crate::support::{Bench, kind, numbered_id};

scenarios! {
    a_token_is_known_by_its_secret_until_it_expires,
    a_rotated_token_has_two_secrets_for_a_while,
    a_revocation_holds_at_once_and_for_all_secrets,
    a_name_is_never_given_to_another_token,
    a_token_of_a_user_goes_with_their_purge,
    the_last_use_of_a_token_is_recorded_once_an_hour,
    nothing_that_is_kept_or_shown_of_a_token_is_its_secret,
}

const DAY: i64 = 24 * 3_600;

fn scopes() -> Scopes {
    [Scope::UsersRead, Scope::FilesWrite].into_iter().collect()
}

async fn create_token(bench: &Bench, name: &str) -> (Token, TokenSecret) {
    bench.store.create_token(NewToken::new(name, scopes())).await.unwrap()
}

/// What a secret is worth.
async fn worth(bench: &Bench, secret: &TokenSecret) -> &'static str {
    match bench.store.authenticate(secret.as_str()).await.unwrap() {
        Authentication::Valid(_) => "valid",
        Authentication::Expired(_) => "expired",
        Authentication::Revoked(_) => "revoked",
        Authentication::Unknown => "unknown",
        _ => "malformed",
    }
}

async fn a_token_is_known_by_its_secret_until_it_expires(bench: &mut Bench) {
    let (token, secret) = create_token(bench, "billing").await;
    assert_eq!((token.name.as_str(), token.scopes, token.user_id), ("billing", scopes(), None));
    assert_eq!(
        (token.last_used_at, token.revoked_at, token.created_by.as_str()),
        (None, None, "library")
    );
    assert_eq!(token.expires_at, token.created_at.checked_add(Token::DEFAULT_LIFETIME).unwrap());
    bench.reopen().await;
    let known = bench.store.authenticate(secret.as_str()).await.unwrap().token().unwrap();
    assert_eq!(*known, token);
    let (_, other) = create_token(bench, "other").await;
    assert_ne!(secret, other);
    bench.clock.forward(365 * DAY - 1);
    assert_eq!(worth(bench, &secret).await, "valid");
    bench.clock.forward(1);
    assert_eq!(worth(bench, &secret).await, "expired");
    let mistyped = secret.as_str().replace("tnt_", "tnt-");
    assert_eq!(bench.store.authenticate(&mistyped).await.unwrap(), Authentication::Malformed);
}

async fn a_rotated_token_has_two_secrets_for_a_while(bench: &mut Bench) {
    let (first, before) = create_token(bench, "billing").await;
    bench.clock.forward(300 * DAY);
    let (second, after) =
        bench.store.rotate_token("billing", Token::DEFAULT_OVERLAP, "command:0").await.unwrap();
    assert_eq!(
        (second.name.as_str(), second.scopes, second.created_by.as_str()),
        ("billing", scopes(), "command:0")
    );
    assert!(second.number > first.number);
    assert_eq!(second.expires_at, second.created_at.checked_add(Token::DEFAULT_LIFETIME).unwrap());
    assert_eq!((worth(bench, &before).await, worth(bench, &after).await), ("valid", "valid"));
    bench.clock.forward(DAY);
    assert_eq!((worth(bench, &before).await, worth(bench, &after).await), ("expired", "valid"));
    // The overlap makes no secret last longer than it would.
    bench.clock.forward(364 * DAY - 1);
    bench.store.rotate_token("billing", Duration::from_secs(u64::MAX), "library").await.unwrap();
    bench.clock.forward(1);
    assert_eq!(worth(bench, &after).await, "expired");
    let missing = bench.store.rotate_token("nobody", Duration::ZERO, "library").await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::NotFound);
}

async fn a_revocation_holds_at_once_and_for_all_secrets(bench: &mut Bench) {
    let (_, first) = create_token(bench, "billing").await;
    let (_, second) =
        bench.store.rotate_token("billing", Token::DEFAULT_OVERLAP, "library").await.unwrap();
    let (_, other) = create_token(bench, "other").await;
    assert_eq!((worth(bench, &first).await, worth(bench, &second).await), ("valid", "valid"));
    bench.store.revoke_token("billing").await.unwrap();
    assert_eq!((worth(bench, &first).await, worth(bench, &second).await), ("revoked", "revoked"));
    assert_eq!(worth(bench, &other).await, "valid");
    let again = bench.store.rotate_token("billing", Token::DEFAULT_OVERLAP, "library").await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(kind(bench.store.revoke_token("nobody").await), ErrorKind::NotFound);
    // As after a backup was restored.
    assert_eq!(bench.store.revoke_all_tokens().await.unwrap(), 1);
    assert_eq!(worth(bench, &other).await, "revoked");
}

async fn a_name_is_never_given_to_another_token(bench: &mut Bench) {
    create_token(bench, "billing").await;
    let again = || bench.store.create_token(NewToken::new("billing", Scopes::all()));
    assert_eq!(kind(again().await), ErrorKind::TokenExists);
    bench.store.rotate_token("billing", Duration::ZERO, "library").await.unwrap();
    assert_eq!(kind(again().await), ErrorKind::TokenExists);
    bench.store.revoke_token("billing").await.unwrap();
    assert_eq!(kind(again().await), ErrorKind::TokenExists);
    let invalid = bench.store.create_token(NewToken::new("socket:0", scopes())).await;
    assert_eq!(kind(invalid), ErrorKind::InvalidToken);
    let endless = NewToken { lifetime: Duration::MAX, ..NewToken::new("endless", scopes()) };
    assert_eq!(kind(bench.store.create_token(endless).await), ErrorKind::InvalidToken);
    assert_eq!(bench.store.tokens().await.unwrap().len(), 2);
}

async fn a_token_of_a_user_goes_with_their_purge(bench: &mut Bench) {
    let ada = create(&bench.store, "ada@example.com").await;
    let of = |user_id| NewToken { user_id: Some(user_id), ..NewToken::new("ada", scopes()) };
    assert_eq!(kind(bench.store.create_token(of(numbered_id(999))).await), ErrorKind::NotFound);
    let (token, secret) = bench.store.create_token(of(ada.id)).await.unwrap();
    assert_eq!(token.user_id, Some(ada.id));
    let (after, rotated) =
        bench.store.rotate_token("ada", Token::DEFAULT_OVERLAP, "library").await.unwrap();
    assert_eq!(after.user_id, Some(ada.id));
    bench.store.delete(ada.id).await.unwrap();
    // They may be restored, with their tokens.
    assert_eq!(bench.store.tokens().await.unwrap().len(), 2);
    bench.store.purge(Purge::User(ada.id), |_| {}).await.unwrap();
    assert_eq!(bench.store.tokens().await.unwrap(), []);
    bench.reopen().await;
    assert_eq!((worth(bench, &secret).await, worth(bench, &rotated).await), ("unknown", "unknown"));
    // The number isn't given out again.
    assert!(create_token(bench, "ada").await.0.number > after.number);
}

async fn the_last_use_of_a_token_is_recorded_once_an_hour(bench: &mut Bench) {
    let (token, secret) = create_token(bench, "billing").await;
    let last_used_at = async |bench: &Bench| {
        assert_eq!(worth(bench, &secret).await, "valid");
        // What is queued is written before this.
        bench.store.write(|_| Ok::<_, tenantry::Error>(())).await.unwrap();
        let tokens = bench.store.tokens().await.unwrap();
        tokens.iter().find(|other| other.number == token.number).unwrap().last_used_at
    };
    let first = bench.clock.forward(60);
    assert_eq!(last_used_at(bench).await, Some(first));
    bench.reopen().await;
    bench.clock.forward(3_599);
    assert_eq!(last_used_at(bench).await, Some(first));
    bench.reopen().await;
    let second = bench.clock.forward(1);
    assert_eq!(last_used_at(bench).await, Some(second));
    bench.reopen().await;
    bench.clock.back(7_200);
    assert_eq!(last_used_at(bench).await, Some(second));
}

async fn nothing_that_is_kept_or_shown_of_a_token_is_its_secret(bench: &mut Bench) {
    let (_, secret) = create_token(bench, "billing").await;
    let random = secret.as_str()["tnt_".len()..][..43].to_owned();
    let shown = serde_json::to_string(&bench.store.tokens().await.unwrap()).unwrap();
    let fields: Vec<_> = Token::FIELDS.iter().map(|field| format!("\"{field}\":")).collect();
    assert!(fields.iter().all(|field| shown.contains(field)), "{shown}");
    assert!(!shown.contains(&random), "{shown}");
    assert!(!format!("{secret:?}").contains(&random));
    bench.store.close().await.unwrap();
    for entry in std::fs::read_dir(bench.at("")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes.windows(random.len()).any(|part| part == random.as_bytes()),
                "{}",
                path.display()
            );
        }
    }
    bench.reopen().await;
}
