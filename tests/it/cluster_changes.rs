//! Changes of the rules whose commit fails, or whose outcome is not known: what is in memory is what
//! is in the database.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::clock::Clock;
use spendguard::directory::admin_keys::Role;
use spendguard::directory::keyring::{KeyChange, NewKey};
use spendguard::domain::{Limit, Money, Secret};
use spendguard::guard::audit::Actor;
use spendguard::keys::{KeyHash, ModelRule};
use spendguard::rulebook::spend_alerts::monthly;
use spendguard::store::records::Channel;

use crate::harness::{Answer, House, call, chat, run};
use crate::postgres::Postgres;

/// A key that a test has chosen.
const CHOSEN: &str = "sk-chosen-by-the-test";
/// One that a client has of its own.
const OWN: &str = "sk-own-key-of-a-client";

/// Every kind of change, each possible after those before it.
const CHANGES: [&str; 24] = [
    "make a key",
    "rename a key",
    "rotate a key",
    "revoke a key",
    "remember a client's own key",
    "make a project",
    "rename a project",
    "set a rule on models",
    "change a rule on models",
    "make a service account",
    "make another key of it",
    "rename a service account",
    "remove a service account",
    "remove a rule on models",
    "archive a project",
    "make an admin key",
    "remove an admin key",
    "rename the organization",
    "put first steps aside",
    "make a spend alert",
    "change a spend alert",
    "make a limit",
    "grant credit",
    "turn a kill switch on",
];
/// Those that need more than one call of their kind.
const REMOVALS: [&str; 5] = [
    "remove a spend alert",
    "remove a limit",
    "correct a grant",
    "reload the file's limits",
    "turn a kill switch off",
];

fn limits_of(house: &House, text: &str) -> Vec<std::sync::Arc<Limit>> {
    let file = house.folder.path().join("more.toml");
    std::fs::write(&file, text).unwrap();
    let key = ("OPENAI_API_KEY".to_owned(), "sk-x".to_owned());
    spendguard::config::load(Some(&file), [key]).unwrap().limits
}

/// Makes a change through a guard; an error if the guard says that it was not made.
async fn change(house: &House, kind: &str) -> Result<(), String> {
    let (by, directory) = (Actor::configured(), &house.directory);
    let key = || directory.ring().find(&KeyHash::of(CHOSEN.as_bytes())).unwrap().id.to_string();
    let account = || directory.accounts("p")[0].id.clone();
    let rule = |denies| Some(ModelRule { denies, models: vec!["gpt-4o".into()] });
    let named = |name: &str| KeyChange { name: Some(name.into()), ..KeyChange::default() };
    let new = || NewKey { name: "chosen".into(), secret: Some(Secret::new(CHOSEN)), ..NewKey::default() };
    let own = || KeyHash::of(OWN.as_bytes());
    match kind {
        "make a key" => said(directory.create_key(new(), &by).await),
        "rename a key" => said(directory.change_key(&key(), named("renamed"), &by).await),
        "rotate a key" => said(directory.rotate_key(&key(), 600, &by).await),
        "revoke a key" => said(directory.revoke_key(&key(), &by).await),
        "remember a client's own key" => said(directory.remember_pass_through(own(), "sk-own…".into()).await),
        "make a project" => said(directory.create_project(Some("p".into()), "P".into(), &by).await),
        "rename a project" => said(directory.rename_project("p", "Q".into(), &by).await),
        "archive a project" => said(directory.archive_project("p", &by).await),
        "set a rule on models" => said(directory.put_model_rule("p", rule(false), &by).await),
        "change a rule on models" => said(directory.put_model_rule("p", rule(true), &by).await),
        "remove a rule on models" => said(directory.put_model_rule("p", None, &by).await),
        "make a service account" => said(directory.create_account("p", "A".into(), Some(None), &by).await),
        "make another key of it" => {
            said(directory.create_account_key("p", &account(), None, None, &by).await)
        }
        "rename a service account" => said(directory.rename_account("p", &account(), "B".into(), &by).await),
        "remove a service account" => said(directory.delete_account("p", &account(), &by).await),
        "make an admin key" => said(directory.create_admin_key("C".into(), Role::Full, None, &by).await),
        "remove an admin key" => {
            let id = directory.admin_keys()[0].id.clone();
            said(directory.delete_admin_key(&id, &by).await)
        }
        "rename the organization" => said(directory.rename_organization("Ours".into(), &by).await),
        "turn a kill switch on" => said(house.stops.switch_on("organization", None, &by).await),
        "turn a kill switch off" => said(house.stops.switch_off("organization", &by).await),
        "put first steps aside" => said(directory.put_first_steps_aside(&["limit"], &by).await),
        kind => change_of_limits(house, kind).await,
    }
}

async fn change_of_limits(house: &House, kind: &str) -> Result<(), String> {
    let (by, rulebook, usd) = (Actor::configured(), &house.rulebook, Money::from_nano);
    let channel =
        Channel { kind: "email".into(), recipients: vec!["a@b.example".into()], subject_prefix: None };
    match kind {
        "make a spend alert" => said(rulebook.create_spend_alert(None, usd(5_000), channel, &by).await),
        "change a spend alert" => {
            let id = rulebook.spend_alerts(None).await[0].id.clone();
            said(rulebook.change_spend_alert(None, &id, usd(6_000), channel, &by).await)
        }
        "remove a spend alert" => {
            let id = rulebook.spend_alerts(None).await[0].id.clone();
            said(rulebook.delete_spend_alert(None, &id, &by).await)
        }
        "make a limit" => {
            let rule = monthly(None, None, Some(usd(9_000_000_000)));
            said(rulebook.put_limit("made", &rule, &by).await)
        }
        "remove a limit" => said(rulebook.remove_limit("made", &by).await),
        "grant credit" => said(rulebook.grant(usd(7_000_000_000), "first".into(), None, &by).await),
        "correct a grant" => {
            let id = rulebook.credit().unwrap().grants[0].grant.id;
            said(rulebook.correct_grant(id, usd(-1_000), "less".into(), &by).await)
        }
        "reload the file's limits" => {
            let limits = limits_of(house, "[[limit]]\nname = \"file\"\nwindow = \"day\"\nhard = 3\n");
            said(rulebook.install_file_limits(limits, "UTC".into()).await)
        }
        kind => panic!("{kind} is no change"),
    }
}

fn said<T, E: std::fmt::Display>(outcome: Result<T, E>) -> Result<(), String> {
    outcome.map(drop).map_err(|error| error.to_string())
}

/// What a guard knows of the rules, without asking the database.
async fn in_memory(house: &House) -> Vec<String> {
    let (ring, directory, rulebook) = (house.directory.ring(), &house.directory, &house.rulebook);
    let projects = ring.projects().into_iter().filter(|project| !project.from_file);
    let limits = house.guard.core().in_force();
    let grants = rulebook.credit().map(|credit| credit.grants).unwrap_or_default();
    let mut known: Vec<String> = ring.keys().iter().map(|key| format!("{key:?}")).collect();
    known.extend(
        [KeyHash::of(CHOSEN.as_bytes()), KeyHash::of(OWN.as_bytes())]
            .map(|hash| format!("{hash:?}: {:?}", ring.find(&hash).map(|key| key.id.clone()))),
    );
    known.extend(projects.map(|project| format!("{project:?}")));
    known.extend(ring.stops().all().iter().map(|stop| format!("{stop:?}")));
    known.push(format!("rule on models: {:?}", ring.model_rule("p")));
    known.extend(directory.accounts("p").iter().map(|account| format!("{account:?}")));
    known.extend(directory.admin_keys().iter().map(|key| format!("{key:?}")));
    known.push(format!("{} {:?}", directory.organization(), directory.first_steps_aside()));
    known.extend(rulebook.spend_alerts(None).await.iter().map(|alert| format!("{alert:?}")));
    known.extend(limits.iter().map(|of| format!("{:?}", of.limit)));
    known.extend(grants.iter().map(|reading| format!("{:?}", reading.grant)));
    known
}

/// Two guards, and what makes commits of changes fail.
pub(crate) struct Pair {
    pub(crate) postgres: Postgres,
    pub(crate) a: House,
    pub(crate) b: House,
}

/// The commit of a change takes eight seconds.
const SLOW: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(8); RETURN \
                    NULL; END $$; CREATE CONSTRAINT TRIGGER fault AFTER UPDATE ON rules DEFERRABLE INITIALLY \
                    DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";
/// The commit of a change is refused.
const REFUSED: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END \
                       $$; CREATE CONSTRAINT TRIGGER fault AFTER UPDATE ON rules DEFERRABLE INITIALLY DEFERRED FOR \
                       EACH ROW EXECUTE FUNCTION refuse()";
/// A change is committed, and waits for a standby that is not there before it is answered.
const UNHEARD: &str = "CREATE FUNCTION unheard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM \
                       set_config('synchronous_commit', 'on', true); RETURN NEW; END $$; CREATE TRIGGER fault BEFORE \
                       UPDATE ON rules FOR EACH ROW EXECUTE FUNCTION unheard()";

impl Pair {
    pub(crate) async fn with(settings: &'static str, config: &str) -> Self {
        let postgres = Postgres::with(settings);
        let a = House::sharing(&postgres, None, config).await;
        let b = House::sharing(&postgres, None, config).await;
        Self { postgres, a, b }
    }

    async fn new() -> Self {
        Self::with("-c fsync=off", "").await
    }

    /// Waits until a backend waits so in a commit, and returns it.
    async fn committing(&self, wait: &str) -> String {
        let began = Clock::default();
        loop {
            let waiting =
                format!("SELECT pid FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = '{wait}'");
            let pid = self.postgres.ask(&waiting);
            if !pid.is_empty() {
                return pid;
            }
            assert!(began.running() < Duration::from_secs(20), "no commit waits");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn end(&self, pid: &str) {
        self.postgres.ask(&format!("SELECT pg_terminate_backend({pid})"));
    }

    fn repair(&self) {
        self.postgres.ask("DROP TRIGGER fault ON rules");
    }

    /// What both guards know, once each has read what is stored.
    async fn agreed(&self, after: &str) -> Vec<String> {
        assert!(self.a.guard.core().see_whole().await && self.b.guard.core().see_whole().await);
        let known = in_memory(&self.a).await;
        assert_eq!(known, in_memory(&self.b).await, "after: {after}");
        known
    }
}

#[test]
fn a_change_whose_commit_is_lost_is_in_force_on_no_guard_at_any_time_and_can_be_made_again() {
    run(async {
        let pair = Pair::new().await;
        pair.postgres.ask(SLOW);
        pair.repair();
        let trigger = &SLOW[SLOW.find("CREATE CONSTRAINT").unwrap()..];
        for kind in CHANGES.into_iter().chain(REMOVALS) {
            let before = pair.agreed(kind).await;
            pair.postgres.ask(trigger);
            let meanwhile = async {
                let pid = pair.committing("PgSleep").await;
                assert_eq!(in_memory(&pair.a).await, before, "{kind}: in force before it is committed");
                pair.end(&pid);
            };
            let (outcome, ()) = tokio::join!(change(&pair.a, kind), meanwhile);
            assert!(outcome.is_err(), "{kind}");
            assert_eq!(in_memory(&pair.a).await, before, "{kind}: in force though it is not committed");
            assert_eq!(pair.agreed(kind).await, before, "{kind}");
            pair.repair();
            assert_eq!(change(&pair.a, kind).await, Ok(()), "{kind}, again");
            assert_ne!(in_memory(&pair.a).await, before, "{kind}: in force when it is answered");
            pair.agreed(kind).await;
        }
    });
}

#[test]
fn a_change_that_is_committed_though_its_call_fails_is_in_force_on_every_guard() {
    run(async {
        let pair = Pair::with("-c fsync=off -c synchronous_commit=local", "").await;
        pair.postgres.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nowhere'");
        pair.postgres.sql("postgres", "SELECT pg_reload_conf()");
        pair.postgres.ask(UNHEARD);
        for kind in CHANGES.into_iter().chain(REMOVALS) {
            let before = pair.agreed(kind).await;
            let meanwhile = async { pair.end(&pair.committing("SyncRep").await) };
            let (outcome, ()) = tokio::join!(change(&pair.a, kind), meanwhile);
            assert!(outcome.is_err(), "{kind}");
            assert_ne!(pair.agreed(kind).await, before, "{kind}");
        }
    });
}

pub(crate) async fn asks_with(house: &House, key: &str) -> Answer {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let body = Bytes::from(chat(json!({})).to_string());
    call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body).await
}

#[test]
fn no_request_is_admitted_by_a_key_whose_commit_fails_while_it_waits() {
    run(async {
        let pair = Pair::new().await;
        pair.postgres.ask(SLOW);
        let meanwhile = async {
            let pid = pair.committing("PgSleep").await;
            let ending = async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                pair.end(&pid);
            };
            tokio::join!(asks_with(&pair.a, CHOSEN), asks_with(&pair.b, CHOSEN), ending)
        };
        let (outcome, (on_a, on_b, ())) = tokio::join!(change(&pair.a, "make a key"), meanwhile);
        assert!(outcome.is_err());
        assert_eq!((on_a.status, on_b.status), (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED));
        for house in [&pair.a, &pair.b] {
            assert_eq!(asks_with(house, CHOSEN).await.status, StatusCode::UNAUTHORIZED);
        }
    });
}

#[test]
fn an_operator_whose_change_fails_gets_503_and_sees_none_of_it_and_may_repeat_it() {
    run(async {
        let pair = Pair::new().await;
        let (key, project) = (
            json!({ "name": "chosen", "secret": CHOSEN }),
            json!({ "id": "chosen-project", "name": "Chosen" }),
        );
        let shown = async |house: &House, path: &str| {
            house.admin(Method::GET, path, None).await.json()["data"].clone()
        };
        let id = |keys: &Value, name: &str| {
            let found = keys.as_array().unwrap().iter().find(|key| key["name"] == name);
            found.unwrap()["id"].as_str().unwrap().to_owned()
        };
        let made = pair.a.make_key(json!({ "name": "to be revoked" })).await;
        let revocation = format!("/guard/v1/keys/{}", made["id"].as_str().unwrap());
        let calls = [
            (Method::POST, "/guard/v1/keys", Some(key)),
            (Method::POST, "/guard/v1/projects", Some(project)),
            (Method::DELETE, &*revocation, None),
        ];
        pair.postgres.ask(REFUSED);
        for (method, path, body) in calls.clone() {
            let list = if path.contains("projects") { "/guard/v1/projects" } else { "/guard/v1/keys" };
            let before = shown(&pair.a, list).await;
            let failed = pair.a.admin(method, path, body).await;
            assert_eq!(
                (failed.status, failed.code().as_str()),
                (StatusCode::SERVICE_UNAVAILABLE, "ledger_unavailable")
            );
            assert_eq!(shown(&pair.a, list).await, before, "{path}");
        }
        let lists = async |list| (shown(&pair.a, list).await, shown(&pair.b, list).await);
        let (on_a, on_b) = lists("/guard/v1/keys").await;
        assert_eq!(on_a, on_b);
        let usable = made["value"].as_str().unwrap();
        for house in [&pair.a, &pair.b] {
            assert_eq!(asks_with(house, CHOSEN).await.status, StatusCode::UNAUTHORIZED, "it was not made");
            assert_eq!(asks_with(house, usable).await.status, StatusCode::OK, "it was not revoked");
        }
        pair.repair();
        for (method, path, body) in calls {
            let again = pair.a.admin(method, path, body).await;
            assert!(again.status.is_success(), "{path}: {again:?}");
        }
        let (on_a, on_b) = lists("/guard/v1/keys").await;
        assert_eq!(id(&on_a, "chosen"), id(&on_b, "chosen"));
        for house in [&pair.a, &pair.b] {
            assert_eq!(asks_with(house, CHOSEN).await.status, StatusCode::OK);
            assert_eq!(asks_with(house, usable).await.status, StatusCode::UNAUTHORIZED);
        }
    });
}

#[test]
fn a_limit_that_names_a_key_binds_its_first_request_on_every_guard_and_none_of_a_key_that_fails() {
    run(async {
        let named = "[[limit]]\nname = \"by-name\"\nonly = { key = [\"chosen\"] }\nunit = \"requests\"\nwindow = \"day\"\n\
                     hard = 0\n";
        let pair = Pair::with("-c fsync=off", named).await;
        let written = || pair.postgres.ask("SELECT rule FROM active_limit WHERE name = 'by-name'");
        let before = written();
        pair.postgres.ask(REFUSED);
        assert!(change(&pair.b, "make a key").await.is_err());
        assert_eq!(written(), before);
        pair.repair();
        change(&pair.b, "make a key").await.unwrap();
        let key = pair.b.directory.ring().find(&KeyHash::of(CHOSEN.as_bytes())).unwrap();
        assert!(written().contains(&*key.id), "{}", written());
        for house in [&pair.a, &pair.b] {
            let answer = asks_with(house, CHOSEN).await;
            assert_eq!(
                (answer.status, answer.header("x-spendguard-limit")),
                (StatusCode::TOO_MANY_REQUESTS, "by-name")
            );
        }
    });
}

#[test]
fn limits_of_a_file_that_could_not_be_put_in_force_do_not_come_with_the_next_change() {
    run(async {
        let pair = Pair::new().await;
        pair.agreed("nothing").await;
        let locked = pair.postgres.hold("LOCK TABLE file_limit", 20);
        let ended = async {
            let began = Clock::default();
            let waiting = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%FROM file_limit%' AND wait_event_type = \
                           'Lock'";
            while pair.postgres.ask(waiting).is_empty() {
                assert!(began.running() < Duration::from_secs(20), "nothing waits");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            pair.postgres.ask(&waiting.replace("SELECT pid", "SELECT pg_terminate_backend(pid)"));
        };
        let (outcome, ()) = tokio::join!(change(&pair.a, "reload the file's limits"), ended);
        assert!(outcome.is_err());
        pair.postgres
            .ask("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'AccessExclusiveLock'");
        drop(locked);
        change(&pair.a, "make a limit").await.unwrap();
        assert_eq!(pair.postgres.ask("SELECT name FROM active_limit"), "made");
    });
}
