//! Random operations against the plainest of models, result by result.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use tenantry::{
    Ambient, Cursor, Durability, Email, ErrorKind, Filter, ListQuery, NewUser, Order, Set, SignIn,
    StoragePath, Store, Timestamp, User, UserId, UserUpdate,
};

use crate::support::{Place, SqlitePlace, TestClock, block_on, email, numbered_id};

/// Few enough that conflicts are frequent; some are the same address in another spelling.
const ADDRESSES: [&str; 14] = [
    "ada@example.com",
    "Ada@Example.com",
    "ADA@EXAMPLE.COM",
    "adam@example.com",
    "strasse@example.com",
    "stra\u{df}e@example.com",
    "mike@example.com",
    "mi\u{212A}e@example.com",
    "bob@b\u{fc}cher.example",
    "Bob@xn--bcher-kva.example",
    "a_b@example.org",
    "a%b@example.org",
    "axb@example.org",
    "\u{ff21}da@example.com",
];
/// Some lie within others, and one is reserved.
const PATHS: [&str; 7] = ["files", "files/a", "files/a/b", "files/b", "other", "files2", "ab/cd"];
/// Prefixes, and what they come to in a key with the domain as people read it.
const PREFIXES: [(&str, &str); 12] = [
    ("", ""),
    ("A", "a"),
    ("ada@EX", "ada@ex"),
    ("stra\u{df}", "strass"),
    ("a_", "a_"),
    ("a%", "a%"),
    ("bob@B\u{dc}CHER.example", "bob@b\u{fc}cher.example"),
    ("bob@B", "bob@b"),
    ("bob@x", "bob@x"),
    ("mi\u{212A}e", "mike"),
    ("%", "%"),
    ("zzz", "zzz"),
];
/// Parts, and what they come to in a key.
const PARTS: [(&str, &str); 7] = [
    ("", ""),
    ("DA", "da"),
    ("\u{df}", "ss"),
    ("_", "_"),
    ("%", "%"),
    ("EXAMPLE.org", "example.org"),
    ("\u{fc}", "\u{fc}"),
];

/// Values of what a user may lack.
const NAMES: [&str; 3] = ["Ada", "ada", "\u{5d0}\u{5d3}\u{5d4}"];
const EXTERNAL_IDS: [&str; 3] = ["1", " 1", "00u\u{e9}"];
const ATTRIBUTES: [&str; 3] = ["{}", r#"{"b":1.0,"a":2}"#, r#"{"a":2,"b":1.0}"#];

/// Somebody who is, was, or never was there.
#[derive(Clone, Debug)]
enum Who {
    Seen(Index),
    Numbered(u64),
}

#[derive(Clone, Debug)]
struct New {
    address: &'static str,
    /// One of a few ids, or that of somebody who was seen.
    id: Option<Who>,
    path: Option<Path>,
    created_s: Option<i64>,
    login_s: Option<i64>,
    version: Option<u64>,
    suspended_s: Option<i64>,
    profile: Profile,
}

/// What is to become of the values that a user may lack.
#[derive(Clone, Debug)]
struct Profile {
    external_id: Set<&'static str>,
    name: Set<&'static str>,
    attributes: Set<&'static str>,
}

#[derive(Clone, Debug)]
enum Path {
    Given(&'static str),
    /// The one derived from the given id.
    Own,
}

#[derive(Clone, Debug)]
struct Listing {
    limit: usize,
    prefix: Option<(&'static str, &'static str)>,
    part: Option<(&'static str, &'static str)>,
    /// Seconds from the start of the clock.
    created_after_s: Option<i64>,
    created_before_s: Option<i64>,
    inactive_since_s: Option<i64>,
    never_logged_in: bool,
    suspended: Option<bool>,
    external_id: Option<&'static str>,
    by_login: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Create(New),
    CreateMany(Vec<New>),
    SignIn(&'static str),
    Update(Who, Option<&'static str>, Profile, Option<u64>),
    Suspend(Who),
    Resume(Who),
    Delete(Who),
    RecordLogin(Who),
    Get(Who),
    GetByEmail(&'static str),
    List(Listing),
    Clock(i64),
    Reopen,
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![9 => any::<Index>().prop_map(Who::Seen), 1 => (500_u64..504).prop_map(Who::Numbered)]
}

fn address() -> impl Strategy<Value = &'static str> {
    select(&ADDRESSES[..])
}

fn new() -> impl Strategy<Value = New> {
    let id = prop_oneof![3 => Just(None), 1 => who().prop_map(Some)];
    let path = prop_oneof![
        4 => Just(None),
        3 => select(&PATHS[..]).prop_map(|path| Some(Path::Given(path))),
        1 => Just(Some(Path::Own)),
    ];
    let version = prop_oneof![8 => Just(None), 1 => select(vec![0, 1, 7, User::MAX_VERSION, u64::MAX]).prop_map(Some)];
    (
        address(),
        id,
        path,
        rarely(seconds()),
        rarely(seconds()),
        version,
        rarely(seconds()),
        profile(),
    )
        .prop_map(|(address, id, path, created_s, login_s, version, suspended_s, profile)| {
            New { address, id, path, created_s, login_s, version, suspended_s, profile }
        })
}

fn profile() -> impl Strategy<Value = Profile> {
    (set(&EXTERNAL_IDS), set(&NAMES), set(&ATTRIBUTES))
        .prop_map(|(external_id, name, attributes)| Profile { external_id, name, attributes })
}

fn set(values: &'static [&'static str]) -> impl Strategy<Value = Set<&'static str>> {
    prop_oneof![3 => Just(Set::Leave), 1 => Just(Set::Clear), 2 => select(values).prop_map(Set::To)]
}

/// Returns the value as the store takes it.
fn parsed<T: std::str::FromStr<Err: std::fmt::Debug>>(set: Set<&str>) -> Set<T> {
    match set {
        Set::Leave => Set::Leave,
        Set::Clear => Set::Clear,
        Set::To(text) => Set::To(text.parse().unwrap()),
    }
}

/// Returns what a value becomes.
fn after<T: Clone>(set: &Set<T>, before: Option<&T>) -> Option<T> {
    match set {
        Set::Leave => before.cloned(),
        Set::Clear => None,
        Set::To(value) => Some(value.clone()),
    }
}

fn seconds() -> std::ops::Range<i64> {
    -30..30
}

fn rarely<T: Clone + std::fmt::Debug + 'static>(
    strategy: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![3 => Just(None), 1 => strategy.prop_map(Some)]
}

fn listing() -> impl Strategy<Value = Listing> {
    (
        1_usize..6,
        rarely(select(&PREFIXES[..])),
        rarely(select(&PARTS[..])),
        rarely(seconds()),
        rarely(seconds()),
        rarely(seconds()),
        prop::bool::weighted(0.2),
        rarely(any::<bool>()),
        (rarely(select(&EXTERNAL_IDS[..])), any::<bool>()),
    )
        .prop_map(
            |(
                limit,
                prefix,
                part,
                created_after_s,
                created_before_s,
                inactive_since_s,
                never_logged_in,
                suspended,
                (external_id, by_login),
            )| Listing {
                limit,
                prefix,
                part,
                created_after_s,
                created_before_s,
                inactive_since_s,
                never_logged_in,
                suspended,
                external_id,
                by_login,
            },
        )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => new().prop_map(Op::Create),
        2 => prop::collection::vec(new(), 0..5).prop_map(Op::CreateMany),
        4 => address().prop_map(Op::SignIn),
        5 => (who(), prop::option::weighted(0.7, address()), profile(), rarely(1_u64..4))
            .prop_map(|(who, address, profile, version)| Op::Update(who, address, profile, version)),
        2 => who().prop_map(Op::Suspend),
        1 => who().prop_map(Op::Resume),
        3 => who().prop_map(Op::Delete),
        2 => who().prop_map(Op::RecordLogin),
        2 => who().prop_map(Op::Get),
        2 => address().prop_map(Op::GetByEmail),
        5 => listing().prop_map(Op::List),
        3 => seconds().prop_map(Op::Clock),
        1 => Just(Op::Reopen),
    ]
}

/// What the store should hold, and what it should answer.
struct Model {
    start: Timestamp,
    now: Timestamp,
    /// In the order of creation.
    users: Vec<User>,
    retired: Vec<User>,
}

impl Model {
    fn at(&self, seconds: i64) -> Timestamp {
        Timestamp::from_unix_us(self.start.as_unix_us() + seconds * 1_000_000).unwrap()
    }

    fn position(&self, id: UserId) -> Result<usize, ErrorKind> {
        self.users.iter().position(|user| user.id == id).ok_or(ErrorKind::NotFound)
    }

    fn by_key(&self, email: &Email) -> Option<usize> {
        self.users.iter().position(|user| user.email.key() == email.key())
    }

    /// `drawn` is the id that the store drew, if it drew one.
    fn create(&mut self, new: &NewUser, drawn: Option<UserId>) -> Result<User, ErrorKind> {
        let version = new.version.unwrap_or(1);
        if !(1..=User::MAX_VERSION).contains(&version) {
            return Err(ErrorKind::InvalidUser);
        }
        if new.id.is_some_and(|id| self.retired.iter().any(|user| user.id == id)) {
            return Err(ErrorKind::IdTaken);
        }
        if let Some(path) = new
            .storage_path
            .as_ref()
            .filter(|path| new.id.map(StoragePath::derived).as_ref() != Some(path))
        {
            let first = path.as_str().split('/').next().unwrap();
            let reserved = first.len() == 2 && first.chars().all(|c| c.is_ascii_hexdigit());
            // Who is there already is what a caller asks first.
            if self.by_key(&new.email).is_some() {
                return Err(ErrorKind::EmailTaken);
            }
            if reserved {
                return Err(ErrorKind::InvalidPath);
            }
            if self
                .users
                .iter()
                .chain(&self.retired)
                .any(|user| overlap(user.storage_path.as_str(), path.as_str()))
            {
                return Err(ErrorKind::PathTaken);
            }
        }
        if self.by_key(&new.email).is_some() {
            return Err(ErrorKind::EmailTaken);
        }
        if new.id.is_some_and(|id| self.position(id).is_ok()) {
            return Err(ErrorKind::IdTaken);
        }
        let id = new.id.or(drawn).expect("a user who was created has an id");
        assert!(
            self.users.iter().chain(&self.retired).all(|user| user.id != id),
            "an id was drawn twice"
        );
        let created_at = new.created_at.unwrap_or(self.now);
        let mut user = a_user();
        user.id = id;
        user.email = new.email.clone();
        user.created_at = created_at;
        user.last_login_at = new.last_login_at;
        user.storage_path = new.storage_path.clone().unwrap_or_else(|| StoragePath::derived(id));
        user.updated_at = new.updated_at.unwrap_or(created_at);
        user.version = version;
        user.suspended_at = new.suspended_at;
        user.external_id = new.external_id.clone();
        user.name = new.name.clone();
        user.attributes = new.attributes.clone();
        self.users.push(user.clone());
        Ok(user)
    }

    fn log_in(&mut self, position: usize) -> Result<User, ErrorKind> {
        let user = &mut self.users[position];
        if user.suspended_at.is_some() {
            return Err(ErrorKind::Suspended);
        }
        user.last_login_at = user.last_login_at.max(Some(self.now));
        Ok(user.clone())
    }

    fn set_suspended_at(&mut self, id: UserId, at: Option<Timestamp>) -> Result<User, ErrorKind> {
        let position = self.position(id)?;
        let user = &mut self.users[position];
        if user.suspended_at.is_some() != at.is_some() {
            if user.version == User::MAX_VERSION {
                return Err(ErrorKind::InvalidUser);
            }
            user.suspended_at = at;
            user.version += 1;
            user.updated_at = user.updated_at.max(self.now);
        }
        Ok(user.clone())
    }

    fn update(&mut self, id: UserId, update: &UserUpdate) -> Result<User, ErrorKind> {
        let position = self.position(id)?;
        let mut user = self.users[position].clone();
        if update.expected_version.is_some_and(|version| version != user.version) {
            return Err(ErrorKind::VersionMismatch { current: user.version });
        }
        let before = user.clone();
        user.email = update.email.clone().unwrap_or(user.email);
        user.external_id = after(&update.external_id, user.external_id.as_ref());
        user.name = after(&update.name, user.name.as_ref());
        user.attributes = after(&update.attributes, user.attributes.as_ref());
        if user == before {
            return Ok(user);
        }
        if user.version == User::MAX_VERSION {
            return Err(ErrorKind::InvalidUser);
        }
        if self.by_key(&user.email).is_some_and(|other| other != position) {
            return Err(ErrorKind::EmailTaken);
        }
        user.version += 1;
        user.updated_at = user.updated_at.max(self.now);
        self.users[position] = user.clone();
        Ok(user)
    }

    fn delete(&mut self, id: UserId) -> Result<User, ErrorKind> {
        let user = self.users.remove(self.position(id)?);
        self.retired.push(user.clone());
        Ok(user)
    }

    fn list(&self, listing: &Listing) -> Vec<User> {
        let meets = |user: &&User| {
            // The only domain among the addresses that isn't ASCII.
            let shown = user.email.key().replace("xn--bcher-kva", "b\u{fc}cher");
            listing.prefix.is_none_or(|(_, prefix)| shown.starts_with(prefix))
                && listing.part.is_none_or(|(part, folded)| {
                    let address = user.email.as_str();
                    user.email.key().contains(folded)
                        || shown.contains(folded)
                        || address.contains(folded)
                        || address.contains(part)
                })
                && listing.created_after_s.is_none_or(|s| user.created_at >= self.at(s))
                && listing.created_before_s.is_none_or(|s| user.created_at < self.at(s))
                && listing
                    .inactive_since_s
                    .is_none_or(|s| user.last_login_at.unwrap_or(user.created_at) < self.at(s))
                && (!listing.never_logged_in || user.last_login_at.is_none())
                && listing
                    .suspended
                    .is_none_or(|is_suspended| user.suspended_at.is_some() == is_suspended)
                && listing
                    .external_id
                    .is_none_or(|id| user.external_id.as_ref().is_some_and(|of| of.as_str() == id))
        };
        let mut users: Vec<User> = self.users.iter().filter(meets).cloned().collect();
        if listing.by_login {
            users.sort_by_key(|user| user.last_login_at.unwrap_or(user.created_at));
        }
        users
    }
}

/// Some user, to be filled in: one can't be made from outside.
fn a_user() -> User {
    thread_local! {
        static USER: User = block_on(async {
            let place = SqlitePlace::new();
            let store = place.builder().open().await.unwrap();
            let user = store.create(NewUser::new(email("some@example.com"))).await.unwrap();
            store.close().await.unwrap();
            user
        });
    }
    USER.with(User::clone)
}

fn overlap(a: &str, b: &str) -> bool {
    a == b || a.starts_with(&format!("{b}/")) || b.starts_with(&format!("{a}/"))
}

struct Run {
    place: SqlitePlace,
    clock: TestClock,
    store: Store,
    model: Model,
    /// Ids of users who are or were there.
    seen: Vec<UserId>,
}

impl Run {
    async fn new() -> Self {
        let (place, clock) = (SqlitePlace::new(), TestClock::new());
        let store = Self::open(&place, &clock).await;
        let now = clock.now();
        Self {
            place,
            clock,
            store,
            model: Model { start: now, now, users: vec![], retired: vec![] },
            seen: vec![],
        }
    }

    async fn open(place: &SqlitePlace, clock: &TestClock) -> Store {
        // Nothing here is about power cuts.
        place
            .builder()
            .durability(Durability::Normal)
            .ambient(Arc::new(clock.clone()))
            .open()
            .await
            .unwrap()
    }

    fn id(&self, who: &Who) -> UserId {
        match who {
            Who::Seen(index) if !self.seen.is_empty() => *index.get(&self.seen),
            Who::Seen(_) => numbered_id(500),
            Who::Numbered(number) => numbered_id(*number),
        }
    }

    fn new_user(&self, new: &New) -> NewUser {
        let id = new.id.as_ref().map(|who| self.id(who));
        NewUser {
            email: email(new.address),
            id,
            storage_path: match (&new.path, id) {
                (Some(Path::Given(path)), _) => Some(path.parse().unwrap()),
                (Some(Path::Own), Some(id)) => Some(StoragePath::derived(id)),
                _ => None,
            },
            created_at: new.created_s.map(|s| self.model.at(s)),
            last_login_at: new.login_s.map(|s| self.model.at(s)),
            updated_at: None,
            version: new.version,
            suspended_at: new.suspended_s.map(|s| self.model.at(s)),
            external_id: after(&parsed(new.profile.external_id), None),
            name: after(&parsed(new.profile.name), None),
            attributes: after(&parsed(new.profile.attributes), None),
        }
    }

    fn check_created(&mut self, new: &NewUser, answer: tenantry::Result<User>) {
        let answer = answer.map_err(|error| error.kind());
        let drawn = answer.as_ref().ok().map(|user| user.id);
        assert_eq!(answer, self.model.create(new, drawn));
        self.seen.extend(drawn);
    }

    async fn apply(&mut self, op: &Op) {
        match op {
            Op::Create(new) => {
                let new = self.new_user(new);
                let answer = self.store.create(new.clone()).await;
                self.check_created(&new, answer);
            }
            Op::CreateMany(rows) => {
                let rows: Vec<NewUser> = rows.iter().map(|new| self.new_user(new)).collect();
                let answers = self.store.create_many(rows.clone()).await.unwrap();
                assert_eq!(answers.len(), rows.len());
                for (new, answer) in rows.iter().zip(answers) {
                    self.check_created(new, answer);
                }
            }
            Op::SignIn(address) => {
                let answer = self.store.sign_in(email(address)).await.map_err(|error| error.kind());
                let expected = match self.model.by_key(&email(address)) {
                    Some(position) => {
                        self.model.log_in(position).map(|user| SignIn { user, is_new: false })
                    }
                    None => {
                        let new = NewUser {
                            last_login_at: Some(self.model.now),
                            ..NewUser::new(email(address))
                        };
                        let drawn = answer.as_ref().map(|answer| answer.user.id).unwrap();
                        self.seen.push(drawn);
                        Ok(SignIn {
                            user: self.model.create(&new, Some(drawn)).unwrap(),
                            is_new: true,
                        })
                    }
                };
                assert_eq!(answer, expected);
            }
            Op::Update(who, address, profile, expected_version) => {
                let id = self.id(who);
                let update = UserUpdate {
                    email: address.map(email),
                    external_id: parsed(profile.external_id),
                    name: parsed(profile.name),
                    attributes: parsed(profile.attributes),
                    expected_version: *expected_version,
                };
                let answer =
                    self.store.update(id, update.clone()).await.map_err(|error| error.kind());
                assert_eq!(answer, self.model.update(id, &update));
            }
            Op::Suspend(who) => {
                let id = self.id(who);
                let answer = self.store.suspend(id).await.map_err(|error| error.kind());
                assert_eq!(answer, self.model.set_suspended_at(id, Some(self.model.now)));
            }
            Op::Resume(who) => {
                let id = self.id(who);
                let answer = self.store.resume(id).await.map_err(|error| error.kind());
                assert_eq!(answer, self.model.set_suspended_at(id, None));
            }
            Op::Delete(who) => {
                let id = self.id(who);
                let answer = self.store.delete(id).await.map_err(|error| error.kind());
                assert_eq!(answer, self.model.delete(id));
            }
            Op::RecordLogin(who) => {
                let id = self.id(who);
                let answer = self.store.record_login(id).await.map_err(|error| error.kind());
                let expected =
                    self.model.position(id).and_then(|position| self.model.log_in(position));
                assert_eq!(answer, expected);
            }
            Op::Get(who) => {
                let id = self.id(who);
                let expected = self.model.users.iter().find(|user| user.id == id);
                assert_eq!(self.store.get(id).await.unwrap().as_ref(), expected);
            }
            Op::GetByEmail(address) => {
                let expected =
                    self.model.by_key(&email(address)).map(|position| &self.model.users[position]);
                assert_eq!(
                    self.store.get_by_email(&email(address)).await.unwrap().as_ref(),
                    expected
                );
            }
            Op::List(listing) => self.check_listing(listing).await,
            Op::Clock(seconds) => self.model.now = self.clock.forward(*seconds),
            Op::Reopen => {
                self.store.close().await.unwrap();
                self.store = Self::open(&self.place, &self.clock).await;
                assert!(!self.store.was_created());
            }
        }
    }

    async fn check_listing(&self, listing: &Listing) {
        let mut query = ListQuery {
            limit: listing.limit,
            cursor: None,
            order: if listing.by_login { Order::LastLogin } else { Order::Creation },
            filter: Filter {
                email_prefix: listing.prefix.map(|(prefix, _)| prefix.to_owned()),
                email_contains: listing.part.map(|(part, _)| part.to_owned()),
                created_after: listing.created_after_s.map(|s| self.model.at(s)),
                created_before: listing.created_before_s.map(|s| self.model.at(s)),
                inactive_since: listing.inactive_since_s.map(|s| self.model.at(s)),
                never_logged_in: listing.never_logged_in,
                suspended: listing.suspended,
                external_id: listing.external_id.map(|id| id.parse().unwrap()),
            },
        };
        let expected = self.model.list(listing);
        assert_eq!(self.store.count_where(&query.filter).await.unwrap(), expected.len() as u64);
        let mut left = expected.as_slice();
        loop {
            let page = self.store.list(&query).await.unwrap();
            let (now, later) = left.split_at(listing.limit.min(left.len()));
            assert_eq!(page.users, now);
            assert_eq!(page.next_cursor.is_some(), !later.is_empty());
            let Some(cursor) = page.next_cursor else { break };
            query.cursor = Some(cursor.to_string().parse::<Cursor>().unwrap());
            left = later;
        }
    }

    async fn finish(mut self) {
        self.apply(&Op::Reopen).await;
        let everybody = Listing {
            limit: 3,
            prefix: None,
            part: None,
            created_after_s: None,
            created_before_s: None,
            inactive_since_s: None,
            never_logged_in: false,
            suspended: None,
            external_id: None,
            by_login: false,
        };
        self.check_listing(&everybody).await;
        assert_eq!(self.store.count().await.unwrap(), self.model.users.len() as u64);
        self.store.close().await.unwrap();
    }
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").map_or(64, |cases| cases.parse().unwrap());
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_store_returns_the_results_of_the_model(ops in prop::collection::vec(op(), 1..100)) {
        block_on(async {
            let mut run = Run::new().await;
            for op in &ops {
                run.apply(op).await;
            }
            run.finish().await;
        });
    }
}
