//! Requests that are performed once, however often they are sent.

use tracing::instrument;

use super::Store;
use crate::domain::request::Once;
use crate::engine::verbs::{self, Create, RecordLogin, Restore, Resume, Suspend, Verb};
use crate::{Email, Kept, NewUser, RequestKey, Result, SignIn, User, UserId};

/// A store that performs one request: see [`Store::once`].
#[derive(Clone, Debug)]
pub struct OnceStore<'s> {
    store: &'s Store,
    key: RequestKey,
}

impl Store {
    /// Returns the store for one request, which is performed once however often it is sent.
    ///
    /// Whoever sends it again within [24 hours](RequestKey::KEPT_FOR), even after a crash, gets the
    /// result of the first time, which is kept in the transaction of the change itself. A failure
    /// isn't kept: the next attempt is a new one. If the first attempt was `Unfinished`, the change
    /// was made, and the next attempt gets its result.
    ///
    /// The methods are those of the store, and fail besides with `KeyReused` if another request was
    /// made with this key. In a closure there is [`WriteTx::once`](crate::WriteTx::once).
    ///
    /// # Examples
    ///
    /// ```
    /// # futures_lite::future::block_on(async {
    /// # let dir = tempfile::tempdir()?;
    /// # let store = tenantry::Store::open(dir.path()).await?;
    /// use tenantry::{NewUser, RequestKey};
    ///
    /// let key = RequestKey::new("billing", "8e03978e-40d5", &[b"create", b"ada@example.com"])?;
    /// let new = NewUser::new("ada@example.com".parse()?);
    /// let first = store.once(key.clone()).create(new.clone()).await?;
    /// let again = store.once(key).create(new).await?;
    /// assert_eq!(first, again);
    /// # store.close().await?;
    /// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn once(&self, key: RequestKey) -> OnceStore<'_> {
        OnceStore { store: self, key }
    }
}

impl OnceStore<'_> {
    /// Creates a user: [`Store::create`].
    ///
    /// # Errors
    ///
    /// Those of it, and `KeyReused`.
    ///
    /// # Examples
    ///
    /// See [`Store::once`].
    #[instrument(level = "debug", skip_all)]
    pub async fn create(self, user: NewUser) -> Result<User> {
        self.apply(Create(user)).await
    }

    /// Finds or creates the user with this address, and records the login: [`Store::sign_in`].
    ///
    /// # Errors
    ///
    /// Those of it, and `KeyReused`.
    ///
    /// # Examples
    ///
    /// See [`Store::once`].
    #[instrument(level = "debug", skip_all)]
    pub async fn sign_in(self, email: Email) -> Result<SignIn> {
        self.apply(verbs::SignIn(email)).await
    }

    /// Records a login: [`Store::record_login`].
    ///
    /// # Errors
    ///
    /// Those of it, and `KeyReused`.
    ///
    /// # Examples
    ///
    /// See [`Store::once`].
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn record_login(self, id: UserId) -> Result<User> {
        self.apply(RecordLogin(id)).await
    }

    /// Suspends a user: [`Store::suspend`].
    ///
    /// # Errors
    ///
    /// Those of it, and `KeyReused`.
    ///
    /// # Examples
    ///
    /// See [`Store::once`].
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn suspend(self, id: UserId) -> Result<User> {
        self.apply(Suspend(id)).await
    }

    /// Lets a suspended user sign in again: [`Store::resume`].
    ///
    /// # Errors
    ///
    /// Those of it, and `KeyReused`.
    ///
    /// # Examples
    ///
    /// See [`Store::once`].
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn resume(self, id: UserId) -> Result<User> {
        self.apply(Resume(id)).await
    }

    /// Restores a user from the trash: [`Store::restore`].
    ///
    /// # Errors
    ///
    /// Those of it, and `KeyReused`.
    ///
    /// # Examples
    ///
    /// See [`Store::once`].
    #[instrument(level = "debug", skip_all, fields(user = %id))]
    pub async fn restore(self, id: UserId, email: Option<Email>) -> Result<User> {
        self.apply(Restore(id, email)).await
    }

    async fn apply<V: Verb>(self, verb: V) -> Result<V::Reply>
    where
        V::Reply: Kept,
    {
        self.store.engine.apply_once(self.store.actor.clone(), verb, Once::new(self.key)).await
    }
}
