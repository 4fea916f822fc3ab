//! `spendguard storage migrate`: a stopped guard's ledger, moved to PostgreSQL and back.

mod interrupted;
mod months;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use spendguard::domain::Money;
use spendguard::upstream::Upstream;

use crate::harness::{client, run};
use crate::postgres::Postgres;
use crate::process::{Place, Process, SPENDGUARD, Serving, served};

/// A limit of the file, and an alert on the first request.
const CONFIG: &str = "[[limit]]\nname = \"all\"\nwindow = \"month\"\nhard = 5\nsoft = [0.000001]\n\
                      [credit]\nminimum = 0.01\n[cluster]\nnode_timeout = \"5s\"\n\
                      [guard]\nhold_wait = \"0s\"\nwhen_tight = \"reject\"\n";

/// What a ledger shows, whatever its engine is.
const SHOWN: [&str; 12] = [
    "/guard/v1/keys",
    "/v1/organization/projects/chatbot",
    "/guard/v1/limits",
    "/guard/v1/credits",
    "/guard/v1/alerts",
    "/guard/v1/ledger?limit=1000",
    "/guard/v1/usage?group_by=user",
    "/v1/organization/projects/default/service_accounts",
    "/v1/organization/projects/default/model_permissions",
    "/v1/organization/admin_api_keys",
    "/v1/organization/spend_alerts",
    "/v1/organization/audit_logs?limit=100",
];

/// Two databases: a folder and a server.
struct House {
    postgres: Postgres,
    place: Place,
    _fake: Process,
    upstream: Upstream,
}

/// What a command has said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl House {
    fn new() -> Self {
        let (fake, address) = Process::fake();
        let place = Place::new(&address, CONFIG);
        Self { postgres: Postgres::start(), place, upstream: client(&address), _fake: fake }
    }

    fn on_postgres(&self) -> Command {
        let mut command = self.place.command();
        command.env("DATABASE_URL", self.postgres.url()).env("SPENDGUARD_STORAGE__URL__ENV", "DATABASE_URL");
        command
    }

    fn on_folder(&self, folder: &Path) -> Command {
        let mut command = self.place.command();
        command.env("SPENDGUARD_STORAGE__PATH", folder);
        command
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.place.folder.path().join(name)
    }

    /// The command that copies from one place to another.
    fn migration(&self, from: &str, to: &str) -> Command {
        let mut command = Command::new(SPENDGUARD);
        command.args(["storage", "migrate", "--from", from, "--to", to]);
        command.env("DATABASE_URL", self.postgres.url());
        command
    }

    fn migrate(&self, from: &str, to: &str) -> Said {
        said(self.migration(from, to))
    }

    fn to_postgres(&self) -> Said {
        self.migrate(&self.place.data.display().to_string(), "env:DATABASE_URL").ok()
    }

    fn to_folder(&self, folder: &Path) -> Said {
        self.migrate("env:DATABASE_URL", &folder.display().to_string()).ok()
    }

    /// A request that is not answered any more, once it has come to upstream.
    async fn hanging(&self, guard: &Serving, key: &str) {
        let before = served(&self.upstream).await.0;
        let open = guard.chat(key, &[("x-fake-hang", "1")], json!({ "max_completion_tokens": 2_000 }));
        let arrived = async {
            while served(&self.upstream).await.0 == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = arrived => {}
            answer = open => panic!("{answer:?}"),
        }
    }
}

impl Said {
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self
    }

    /// The rows that an earlier copy had copied of a table.
    fn resumed_at(&self, table: &str) -> u64 {
        let line = self.out.lines().find(|line| line.starts_with(&format!("{table} "))).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    }
}

fn said(mut command: Command) -> Said {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said
}

/// A copy that is refused says so, and exits with 1.
fn refusal(command: Command) -> String {
    let said = said(command);
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    said.err
}

async fn shown(guard: &Serving) -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    for path in SHOWN {
        let answer = guard.ask(Method::GET, path, None).await;
        assert!(answer.get("error").is_none(), "{path}: {answer}");
        all.push((path, answer));
    }
    all
}

fn assert_same(before: &[(&str, Value)], after: &[(&str, Value)]) {
    for ((path, before), (_, after)) in before.iter().zip(after) {
        assert_eq!(before, after, "{path}: {before:#} {after:#}");
    }
}

/// Copies a ledger to a folder. Returns a guard on it, which shows the same.
async fn same_in_a_folder(house: &House, before: &[(&str, Value)]) -> Serving {
    let back = house.folder("back");
    house.to_folder(&back);
    let guard = Place::serve_by(house.on_folder(&back));
    assert_same(before, &shown(&guard).await);
    guard.verify().await;
    guard
}

/// What operators can make: a row of each table.
async fn furnish(guard: &Serving) -> String {
    let key = guard.make_key().await;
    let post = |path: &'static str, body: Value| async move {
        let made = guard.ask(Method::POST, path, Some(body)).await;
        assert!(made.get("error").is_none(), "{path}: {made}");
    };
    post("/guard/v1/projects", json!({ "name": "Chatbot", "id": "chatbot" })).await;
    post(
        "/guard/v1/keys",
        json!({ "name": "of the project", "project_id": "chatbot", "expires_in_seconds": 90_000 }),
    )
    .await;
    // Not in the order of their ids, which are random.
    for name in ["ops", "ci", "finance", "audit", "old", "new"] {
        post("/v1/organization/admin_api_keys", json!({ "name": name })).await;
        post("/v1/organization/projects/default/service_accounts", json!({ "name": name })).await;
    }
    let channel = json!({ "type": "email", "recipients": ["finance@example.com"] });
    post(
        "/v1/organization/spend_alerts",
        json!({ "currency": "USD", "interval": "month", "threshold_amount": 123, "notification_channel": channel }),
    )
    .await;
    let models = json!({ "mode": "deny_list", "model_ids": ["gpt-4o"] });
    post("/v1/organization/projects/default/model_permissions", models).await;
    for (name, rule) in [
        ("users", json!({ "per": "user", "unit": "requests", "window": "day", "hard": "100" })),
        ("tokens", json!({ "per": "key", "unit": "tokens", "window": "total", "hard": "100000" })),
    ] {
        guard.ask(Method::PUT, &format!("/guard/v1/limits/{name}"), Some(rule)).await;
    }
    assert_eq!(guard.chat(&key, &[], json!({ "user": "before" })).await.status, StatusCode::OK);
    guard.written(1).await;
    post("/guard/v1/credits", json!({ "amount_usd": "3", "note": "order\t7\\N\n€" })).await;
    post("/guard/v1/credits", json!({ "amount_usd": "2", "expires_at": 2_000_000_000 })).await;
    for number in 0..5 {
        let user = format!("user {}\\", number % 2);
        let answer = guard.chat(&key, &[], json!({ "user": user })).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }
    guard.written(6).await;
    key
}

/// The ledger of a stopped guard, on which a key has spent, and that key.
async fn spent() -> (House, String) {
    let house = House::new();
    let guard = house.place.serve();
    let key = guard.make_key().await;
    assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
    guard.written(1).await;
    guard.stop();
    (house, key)
}

#[test]
fn a_ledger_is_the_same_on_postgresql_and_back_again() {
    run(async {
        let house = House::new();
        let guard = house.place.serve();
        let key = furnish(&guard).await;
        let before = shown(&guard).await;
        assert!(before[4].1.to_string().contains("\"all\""), "a threshold was crossed: {}", before[4].1);
        guard.stop();
        let files = || std::fs::read(house.place.database()).unwrap();
        let file = files();
        let said = house.to_postgres();
        assert!(said.out.contains("the copy is like its source, row by row"), "{}", said.out);
        assert!(files() == file, "the folder stays as it was");

        let guard = Place::serve_by(house.on_postgres());
        assert_same(&before, &shown(&guard).await);
        guard.verify().await;
        assert_eq!(guard.chat(&key, &[], json!({ "user": "after" })).await.status, StatusCode::OK);
        let made =
            guard.ask(Method::POST, "/v1/organization/admin_api_keys", Some(json!({ "name": "last" }))).await;
        assert!(made.get("value").is_some(), "{made}");
        guard.written(7).await;
        let before = shown(&guard).await;
        let names = before[9].1["data"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap());
        assert_eq!(names.clone().count(), 7, "the newest follows the others");
        guard.verify().await;
        guard.stop();

        let guard = same_in_a_folder(&house, &before).await;
        assert_eq!(guard.chat(&key, &[], json!({ "user": "back" })).await.status, StatusCode::OK);
        guard.written(8).await;
        guard.verify().await;
    });
}

#[test]
fn a_hold_that_was_open_at_a_kill_is_charged_once_wherever_the_ledger_goes_next() {
    run(async {
        let house = House::new();
        let guard = house.place.serve();
        let key = guard.make_key().await;
        guard.ask(Method::POST, "/guard/v1/credits", Some(json!({ "amount_usd": "3" }))).await;
        assert_eq!(guard.chat(&key, &[], json!({})).await.status, StatusCode::OK);
        guard.written(1).await;
        house.hanging(&guard, &key).await;
        let (settled, held) = guard.meter("all").await;
        assert!(settled > Money::ZERO && held > Money::ZERO);
        guard.process.kill();
        let files = || {
            ["spendguard.db", "spendguard.db-wal", "lock"]
                .map(|name| std::fs::read(house.place.data.join(name)).unwrap())
        };
        let before = files();
        let said = house.to_postgres();
        assert!(said.out.contains("1 open holds"), "{}", said.out);
        assert!(files() == before, "the folder stays as the killed guard left it");
        // There and back without a guard in between, it is still open.
        let back = house.folder("back");
        let said = house.to_folder(&back);
        assert!(said.out.contains("1 open holds"), "{}", said.out);

        let on_folder = Place::serve_by(house.on_folder(&back));
        let on_postgres = Place::serve_by(house.on_postgres());
        let on_source = house.place.serve();
        for guard in [on_folder, on_postgres, on_source] {
            guard.held("all", |held| held == Money::ZERO).await;
            assert_eq!(guard.meter("all").await.0, settled + held, "what was held is spent");
            let credit = guard.ask(Method::GET, "/guard/v1/credits", None).await;
            assert_eq!(
                (&credit["held_usd"], &credit["used_usd"]),
                (&json!("0"), &json!((settled + held).to_string()))
            );
            let charged = guard.ask(Method::GET, "/guard/v1/ledger?basis=assumed", None).await;
            assert_eq!(charged["data"].as_array().unwrap().len(), 1, "{charged}");
            guard.verify().await;
            let answer = guard.chat(&key, &[], json!({})).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            guard.stop();
        }
    });
}

#[test]
fn the_hold_of_a_job_stays_open_and_counts_once() {
    run(async {
        let house = House::new();
        let guard = house.place.serve();
        let key = guard.make_key().await;
        house.hanging(&guard, &key).await;
        let (settled, held) = guard.meter("all").await;
        guard.process.kill();
        let db = rusqlite::Connection::open(house.place.database()).unwrap();
        // The log of the killed guard stays.
        db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        db.execute_batch(
            "INSERT INTO job SELECT first_id, 'test', 'job_1', 2000000000, rtrim(holds, char(10)), '{}' FROM hold_batch; \
             DELETE FROM hold_batch",
        )
        .unwrap();
        drop(db);
        house.to_postgres();
        let guard = Place::serve_by(house.on_postgres());
        assert_eq!(guard.meter("all").await, (settled, held));
        guard.verify().await;
        guard.stop();
        let back = house.folder("back");
        house.to_folder(&back);
        let guard = Place::serve_by(house.on_folder(&back));
        assert_eq!(guard.meter("all").await, (settled, held));
        guard.verify().await;
    });
}

#[test]
fn a_source_in_use_and_a_target_that_has_something_are_refused_with_a_remedy() {
    run(async {
        let house = House::new();
        let (data, database) = (house.place.data.display().to_string(), "env:DATABASE_URL");
        let migration = |from: &str, to: &str| house.migration(from, to);
        let said = refusal(migration(&data, database));
        assert!(said.contains("there is no ledger in") && !house.place.data.exists(), "{said}");
        let said = refusal(migration(database, &house.folder("new").display().to_string()));
        assert!(said.contains("there is no ledger in the schema spendguard"), "{said}");
        let said = refusal(migration(&data, "elsewhere"));
        assert!(said.contains("one must be a postgres:// URL"), "{said}");

        let guard = house.place.serve();
        guard.make_key().await;
        let said = refusal(migration(&data, database));
        assert!(said.contains("another spendguard is using"), "{said}");
        guard.stop();
        let on_postgres = Place::serve_by(house.on_postgres());
        let said = refusal(migration(&data, database));
        assert!(said.contains("has rows in its table") && said.contains("name one that is empty"), "{said}");
        let said = refusal(migration(database, &house.folder("new").display().to_string()));
        assert!(said.contains("a guard named") && said.contains("stop it first"), "{said}");
        on_postgres.stop();
        // As a guard that joins keeps it, or a change of the rules.
        let locked = house.postgres.hold("SELECT 1 FROM rules FOR UPDATE", 4);
        let said = refusal(migration(database, &house.folder("new").display().to_string()));
        assert!(said.contains("a guard or another copy works on the ledger"), "{said}");
        drop(locked);
        let said = refusal(migration(database, &data));
        assert!(said.contains("has rows in its table"), "{said}");
        house.postgres.ask("UPDATE schema_version SET version = 9");
        let said = refusal(migration(database, &house.folder("new").display().to_string()));
        assert!(said.contains("has version 9, this spendguard reads version 7"), "{said}");
        house.postgres.sql("spendguard", "DROP SCHEMA spendguard CASCADE");
        let db = rusqlite::Connection::open(house.place.database()).unwrap();
        db.pragma_update(None, "user_version", 6).unwrap();
        drop(db);
        let said = refusal(migration(&data, database));
        assert!(said.contains("has version 6, and 10 is needed; start this spendguard on it once"), "{said}");
    });
}

#[test]
fn a_ledger_that_does_not_agree_with_itself_is_copied_as_it_is_and_the_command_fails() {
    run(async {
        let (house, _) = spent().await;
        let db = rusqlite::Connection::open(house.place.database()).unwrap();
        db.execute_batch("UPDATE rollup SET cost_nano = cost_nano + 1").unwrap();
        drop(db);
        let mut command = house.migration(&house.place.data.display().to_string(), "env:DATABASE_URL");
        command.args(["--schema", "other"]);
        let said = refusal(command);
        assert!(
            said.contains("rollup: ") && said.contains("does not agree with itself, as it did not before"),
            "{said}"
        );
        let mut command = house.on_postgres();
        command.env("SPENDGUARD_STORAGE__SCHEMA", "other");
        let guard = Place::serve_by(command);
        let verified = guard.ask(Method::GET, "/guard/v1/ledger/verify", None).await;
        assert_eq!((&verified["ok"], &verified["differences"][0]["kind"]), (&json!(false), &json!("rollup")));
    });
}
