//! Tokens: the rights of the clients of a service.

use std::time::Duration;

use tracing::instrument;

use super::Store;
use crate::engine::token_cache::LEASE;
use crate::engine::verbs::{CreateToken, RevokeTokens, RotateToken};
use crate::{Authentication, ListQuery, NewToken, Result, Token, TokenSecret};

impl Store {
    /// Creates a token, and returns it with its secret, which is shown now and never again.
    ///
    /// # Errors
    ///
    /// `InvalidToken`; `TokenExists` if another token has or had the name; `NotFound` if there is
    /// no such user.
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path()).await?;
    /// use tenantry::{NewToken, Scope};
    ///
    /// let scopes = [Scope::UsersRead, Scope::UsersWrite].into_iter().collect();
    /// let (token, secret) = store.create_token(NewToken::new("billing", scopes)).await?;
    /// let known = store.authenticate(secret.as_str()).await?.token();
    /// assert_eq!(known.map(|known| known.number), Some(token.number));
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn create_token(&self, new: NewToken) -> Result<(Token, TokenSecret)> {
        let secret = TokenSecret::new(self.engine.random()?);
        let token = self.apply(CreateToken(new, secret.digest())).await?;
        Ok((token, secret))
    }

    /// Returns all tokens in the order of their creation, with those that have expired or were
    /// revoked. None shows its secret.
    ///
    /// # Errors
    ///
    /// `Closed`, `Busy`, `Io`, `Corrupt`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// for token in store.tokens().await? {
    ///     println!("{} until {}: {}", token.name, token.expires_at, token.scopes);
    /// }
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn tokens(&self) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        loop {
            let last = tokens.last().map_or(0, |token: &Token| token.number);
            let mut page = self.engine.tokens_after(last, ListQuery::MAX_LIMIT).await?;
            let is_last = page.len() < ListQuery::MAX_LIMIT;
            tokens.append(&mut page);
            if is_last {
                return Ok(tokens);
            }
        }
    }

    /// Gives a token another secret, with the same scopes and for the same time. The secrets before
    /// stay valid for `overlap` at most, [`Token::DEFAULT_OVERLAP`] as a rule, so that the new one
    /// can be put everywhere first. `created_by` says who does so, as [`NewToken::created_by`].
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no token of this name, or it was revoked; `InvalidToken`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// let overlap = tenantry::Token::DEFAULT_OVERLAP;
    /// let (token, secret) = store.rotate_token("billing", overlap, "library").await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn rotate_token(
        &self,
        name: &str,
        overlap: Duration,
        created_by: &str,
    ) -> Result<(Token, TokenSecret)> {
        let secret = TokenSecret::new(self.engine.random()?);
        let verb = RotateToken(name.to_owned(), overlap, secret.digest(), created_by.to_owned());
        let token = self.apply(verb).await?;
        if overlap < LEASE {
            leases_end().await;
        }
        Ok((token, secret))
    }

    /// Revokes all secrets of a token. When this returns, none is accepted any more, by no process
    /// that has the store open: it waits 100 ms for that.
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no token of this name.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// store.revoke_token("billing").await?;
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn revoke_token(&self, name: &str) -> Result<()> {
        self.apply(RevokeTokens(Some(name.to_owned()))).await?;
        leases_end().await;
        Ok(())
    }

    /// Revokes all tokens, as after a backup was restored in which those are valid that were
    /// revoked since. Returns how many secrets were still to be revoked.
    ///
    /// # Errors
    ///
    /// Those of every write.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store) -> tenantry::Result<()> {
    /// println!("{} secrets revoked", store.revoke_all_tokens().await?);
    /// # Ok(()) }
    /// ```
    #[instrument(level = "debug", skip_all)]
    pub async fn revoke_all_tokens(&self) -> Result<usize> {
        let revoked = self.apply(RevokeTokens(None)).await?;
        leases_end().await;
        Ok(revoked)
    }

    /// Identifies the token whose secret a text is. It costs no statement for a token that was
    /// looked up within the last 100 ms. The time of the last use is recorded once an hour, without
    /// waiting for it.
    ///
    /// # Errors
    ///
    /// `Closed`, `Busy`, `Io`, `Corrupt`.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example(store: tenantry::Store, header: &str) -> tenantry::Result<()> {
    /// use tenantry::{Authentication, Scope};
    ///
    /// match store.authenticate(header.trim_start_matches("Bearer ")).await? {
    ///     Authentication::Valid(token) if token.scopes.has(Scope::UsersRead) => {
    ///         println!("welcome, {}", token.name);
    ///     }
    ///     _ => println!("who are you?"),
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn authenticate(&self, secret: &str) -> Result<Authentication> {
        self.engine.authenticate(secret)
    }
}

/// Waits until no process believes what it looked up before now: a time, since other processes tell
/// nothing of what they know.
async fn leases_end() {
    blocking::unblock(|| std::thread::sleep(LEASE)).await;
}
