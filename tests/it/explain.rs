//! `limits explain` against sums of the same entries that this file makes with
//! SQL and calendars of its own, for limits of every unit, subject and window.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{Method, StatusCode};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rusqlite::Connection;
use serde_json::{Value, json};
use spendguard::domain::Money;

use crate::harness::{ADMIN_TOKEN, House, call, chat, run};
use crate::process::{Place, Process, SPENDGUARD, Serving};

const UNITS: [&str; 5] = ["usd", "tokens", "input_tokens", "output_tokens", "requests"];
const PERS: [&str; 6] = ["organization", "project", "key", "user", "model", "tag:team"];
const WINDOWS: [&str; 7] = ["hour", "day", "week", "month", "quarter", "year", "total"];
const ZONES: [&str; 3] = ["UTC", "Europe/Warsaw", "Asia/Kathmandu"];
const ONLY: [&str; 6] = [
    "{}",
    "{ project = [\"search\"] }",
    "{ key = [\"second\"] }",
    "{ model = [\"gpt-4o*\"] }",
    "{ tag = { team = [\"red\", \"blue\"] } }",
    "{ project = [\"default\"], model = [\"gpt-4o-mini\"], tag = { team = [\"red\"] } }",
];

/// A limit as this test knows it.
pub(crate) struct Rule {
    pub(crate) name: String,
    unit: &'static str,
    per: &'static str,
    window: &'static str,
    zone: &'static str,
    only: usize,
}

/// Every unit with every subject, over every window in turn, and every way to
/// narrow with every window.
pub(crate) fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rule = |unit, per, only, zone: usize| {
        let n = rules.len();
        let name = format!("limit-{n}");
        let (window, zone) = (WINDOWS[n % WINDOWS.len()], ZONES[zone % ZONES.len()]);
        rules.push(Rule { name, unit, per, window, zone, only });
    };
    for (n, unit) in UNITS.into_iter().enumerate() {
        for per in PERS {
            rule(unit, per, 0, n);
        }
    }
    for (n, only) in (0..ONLY.len()).flat_map(|only| WINDOWS.map(|_| only)).enumerate() {
        rule(UNITS[n % UNITS.len()], PERS[n / 3 % PERS.len()], only, n / 2);
    }
    rules
}

pub(crate) fn config(rules: &[Rule]) -> String {
    let mut text = "[[project]]\nid = \"search\"\nname = \"Search\"\n".to_owned();
    for Rule { name, unit, per, window, zone, only } in rules {
        let hard = if *unit == "usd" { "100000" } else { "100000000000" };
        text.push_str(&format!(
            "[[limit]]\nname = \"{name}\"\nunit = \"{unit}\"\nper = \"{per}\"\nwindow = \"{window}\"\nzone = \"{zone}\"\n\
             only = {}\nhard = {hard}\n",
            ONLY[*only]
        ));
    }
    text
}

/// Requests of two keys in two projects, of users and tags and models, some of
/// them refused by upstream; and corrections.
pub(crate) async fn traffic(house: &House) -> Vec<String> {
    let second = house.make_key(json!({ "name": "second", "project_id": "search" })).await;
    let keys = vec![house.key.clone(), second["value"].as_str().unwrap().to_owned()];
    for n in 0..24 {
        let bearer = format!("Bearer {}", keys[n % 2]);
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(
            ["team=red", "team=blue,x=1", "team=green"].get(n % 4).map(|tags| ("x-spendguard-tags", *tags)),
        );
        if n % 6 == 5 {
            headers.push(("x-fake-status", "500"));
        }
        let model = ["gpt-4o-mini", "gpt-5", "gpt-4o"][n % 3];
        let mut body = chat(json!({ "model": model, "max_completion_tokens": 10 + n, "stream": n % 5 == 0 }));
        if n % 4 != 0 {
            body["user"] = format!("user-{}", n % 3).into();
        }
        call(&house.proxy, Method::POST, "/v1/chat/completions", &headers, body.to_string().into()).await;
    }
    house.settled().await;
    for (entry, usd) in house.entries().await.iter().filter(|e| e["kind"] == "settle").zip([
        "1.5",
        "-0.000000003",
        "0.000000007",
    ]) {
        let path = format!("/guard/v1/ledger/{}/adjust", entry["id"].as_str().unwrap());
        let made = house.admin(Method::POST, &path, Some(json!({ "amount_usd": usd, "note": "test" }))).await;
        assert_eq!(made.status, StatusCode::CREATED);
    }
    keys
}

/// Has all of it happened before, too: hours, days and years ago.
pub(crate) fn repeat_in_the_past(db: &Connection) {
    let columns: Vec<String> = db
        .prepare("SELECT name FROM pragma_table_info('entry')")
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    for (n, hours) in [1, 9, 24, 5 * 24, 9 * 24, 25 * 24, 70 * 24, 200 * 24, 500 * 24].into_iter().enumerate()
    {
        let shifted: Vec<String> = columns
            .iter()
            .map(|column| match column.as_str() {
                "id" | "corrects" => format!("{column} + {}", (n + 1) * 10_000),
                "created_ms" | "admitted_ms" => format!("{column} - {hours} * 3600000"),
                column => column.to_owned(),
            })
            .collect();
        let sql = format!("INSERT INTO entry SELECT {} FROM entry WHERE id < 10000", shifted.join(", "));
        db.execute(&sql, []).unwrap();
    }
    db.execute_batch("DROP TABLE rollup").unwrap();
}

/// One fact: an entry that is settled, a correction, or an open hold.
struct Fact {
    at_s: i64,
    project: String,
    key: String,
    user: String,
    model: String,
    priced_as: String,
    tags: Value,
    /// By unit.
    amounts: [i64; 5],
}

/// Entries as they count, by SQL alone.
fn entries(db: &Connection) -> Vec<Fact> {
    let input = "input + cached_input + cache_write + cache_write_12h + audio_input + audio_cached_input + image_input + \
                 image_cached_input";
    let output = "output + reasoning + audio_output + image_output";
    let sql = format!(
        "SELECT admitted_ms / 1000, e.project, k.name, end_user, model, priced_as, IIF(tags = '', '{{}}', tags), cost_nano, \
         {input} + {output}, {input}, {output}, kind = 'settle', api_key FROM entry e JOIN api_key k ON k.id = api_key \
         WHERE kind IN ('settle', 'adjust')"
    );
    let mut statement = db.prepare(&sql).unwrap();
    let facts = statement.query_map([], |row| {
        let tags: String = row.get(6)?;
        Ok(Fact {
            at_s: row.get(0)?,
            project: row.get(1)?,
            key: format!("{} {}", row.get::<_, String>(12)?, row.get::<_, String>(2)?),
            user: row.get(3)?,
            model: row.get(4)?,
            priced_as: row.get(5)?,
            tags: serde_json::from_str(&tags).unwrap(),
            amounts: [row.get(7)?, row.get(8)?, row.get(9)?, row.get(10)?, row.get(11)?],
        })
    });
    facts.unwrap().map(Result::unwrap).collect()
}

/// Holds without an entry, from their lines.
fn holds(db: &Connection) -> Vec<Fact> {
    let mut statement = db.prepare("SELECT holds FROM hold_batch").unwrap();
    let batches: Vec<String> =
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let lines = batches
        .iter()
        .flat_map(|batch| batch.lines())
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ended = |id: i64| {
        db.query_row("SELECT COUNT(*) FROM entry WHERE id = ?1", [id], |row| row.get::<_, i64>(0)).unwrap()
    };
    let name = |id: &str| {
        db.query_row("SELECT name FROM api_key WHERE id = ?1", [id], |row| row.get::<_, String>(0)).unwrap()
    };
    let open = lines.filter(|hold| ended(hold["id"].as_i64().unwrap()) == 0);
    open.map(|hold| {
        let text = |field: &str| hold[field].as_str().unwrap_or("").to_owned();
        let number = |field: &str| hold[field].as_i64().unwrap();
        let (input, output) = (number("input"), number("output"));
        Fact {
            at_s: number("at") / 1_000,
            project: text("project"),
            key: format!("{} {}", text("key"), name(&text("key"))),
            user: text("user"),
            model: text("model"),
            priced_as: text("priced_as"),
            tags: if hold["tags"].is_null() { json!({}) } else { hold["tags"].clone() },
            amounts: [number("cost"), input + output, input, output, 1],
        }
    })
    .collect()
}

impl Rule {
    /// What an instant's window is called.
    fn window(&self, at_s: i64) -> String {
        let at = Timestamp::from_second(at_s).unwrap().to_zoned(TimeZone::get(self.zone).unwrap());
        match self.window {
            "hour" => at.strftime("%F %H %z").to_string(),
            "day" => at.strftime("%F").to_string(),
            "week" => at.strftime("%G-W%V").to_string(),
            "month" => at.strftime("%Y-%m").to_string(),
            "quarter" => format!("{} {}", at.year(), (at.month() - 1) / 3),
            "year" => at.year().to_string(),
            _ => String::new(),
        }
    }

    fn subject(&self, fact: &Fact) -> Option<String> {
        let key = fact.key.split_once(' ').unwrap();
        let mini = |model: &str| model.starts_with("gpt-4o");
        let team = fact.tags["team"].as_str().unwrap_or("");
        let is_in = match self.only {
            1 => fact.project == "search",
            2 => key.1 == "second",
            3 => mini(&fact.model) || mini(&fact.priced_as),
            4 => ["red", "blue"].contains(&team),
            5 => {
                fact.project == "default"
                    && team == "red"
                    && [fact.model.as_str(), &fact.priced_as].contains(&"gpt-4o-mini")
            }
            _ => true,
        };
        let subject = match self.per {
            "project" => fact.project.clone(),
            "key" => key.0.to_owned(),
            "user" => fact.user.clone(),
            "model" if fact.priced_as.is_empty() => fact.model.clone(),
            "model" => fact.priced_as.clone(),
            "tag:team" if team.is_empty() => String::new(),
            "tag:team" => format!("{}/team={team}", key.0),
            _ => "org".to_owned(),
        };
        (is_in && !subject.is_empty()).then_some(subject)
    }

    /// By subject, what these facts come to in the window that is called so,
    /// zeros left out; and how many count for something.
    fn sums(&self, facts: &[Fact], window: &str) -> (BTreeMap<String, i64>, usize) {
        let unit = UNITS.iter().position(|unit| *unit == self.unit).unwrap();
        let (mut sums, mut count) = (BTreeMap::new(), 0);
        for fact in facts.iter().filter(|fact| self.window(fact.at_s) == window) {
            if let Some(subject) = self.subject(fact).filter(|_| fact.amounts[unit] != 0) {
                *sums.entry(subject).or_default() += fact.amounts[unit];
                count += 1;
            }
        }
        sums.retain(|_, sum| *sum != 0);
        (sums, count)
    }

    fn amount(&self, text: &Value) -> i64 {
        let text = text.as_str().unwrap();
        if self.unit == "usd" { text.parse::<Money>().unwrap().nano() } else { text.parse().unwrap() }
    }

    /// What the API says of its meters, zeros left out.
    fn said(&self, explained: &Value, field: &str) -> BTreeMap<String, i64> {
        let meters = explained["meters"].as_array().unwrap();
        let of = |meter: &Value| (meter["subject"].as_str().unwrap().to_owned(), self.amount(&meter[field]));
        meters.iter().map(of).filter(|(_, amount)| *amount != 0).collect()
    }

    /// Compares one explanation with sums of its facts.
    fn check(&self, explained: &Value, facts: (&[Fact], &[Fact]), window: &str) -> usize {
        let Self { name, unit, per, window: over, zone, only } = self;
        let which =
            format!("{name}: {unit} per {per} over {over} in {zone}, only {}: {explained:#}", ONLY[*only]);
        let ((settled, count), (held, holding)) = (self.sums(facts.0, window), self.sums(facts.1, window));
        assert_eq!(self.said(explained, "settled"), settled, "{which}");
        assert_eq!(self.said(explained, "held"), held, "{which}");
        let added = explained["settled_from_entries"].as_object().unwrap().iter();
        let added: BTreeMap<String, i64> =
            added.map(|(of, sum)| (of.clone(), self.amount(sum))).filter(|(_, sum)| *sum != 0).collect();
        assert_eq!(added, settled, "{which}");
        assert_eq!(
            (&explained["agrees"], &explained["entries_total"]),
            (&json!(true), &json!(count)),
            "{which}"
        );
        assert_eq!(explained["holds"].as_array().unwrap().len(), holding, "{which}");
        count
    }
}

async fn compare(guard: &Serving, db: &Connection, rules: &[Rule]) {
    let (facts, open) = (entries(db), holds(db));
    assert!(facts.len() > 200 && open.len() == 4, "{} entries, {} holds", facts.len(), open.len());
    let mut different = BTreeSet::new();
    for rule in rules {
        // Once more, should the window end just now.
        for _ in 0..2 {
            let now = || rule.window(Timestamp::now().as_second());
            let window = now();
            let explained =
                guard.ask(Method::GET, &format!("/guard/v1/limits/{}/explain", rule.name), None).await;
            if now() == window {
                different.insert(rule.check(&explained, (&facts, &open), &window));
                break;
            }
        }
    }
    assert!(different.len() > 8, "the limits count different things: {different:?}");
}

#[test]
fn what_explain_says_of_a_limit_is_the_sum_of_its_entries_and_holds() {
    run(async {
        let house = House::with("[[project]]\nid = \"search\"\nname = \"Search\"\n").await;
        let keys = traffic(&house).await;
        let folder = house.close().await;
        let (_fake, fake) = Process::fake();
        let rules = rules();
        let mut place = Place::new(&fake, &config(&rules));
        place.data = folder.path().join("data");
        repeat_in_the_past(&Connection::open(place.database()).unwrap());
        let guard = place.serve();
        let hanging = [("x-fake-hang", "1"), ("x-spendguard-tags", "team=red")];
        let ask = |n: usize| {
            let more = json!({ "max_completion_tokens": 50, "user": format!("user-{n}") });
            guard.chat(&keys[n % 2], &hanging, more)
        };
        let compared = async {
            let db = Connection::open(place.database()).unwrap();
            for _ in 0..500 {
                if holds(&db).len() == 4 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            compare(&guard, &db, &rules).await;
            guard.verify().await;
        };
        tokio::select! {
            () = compared => {}
            _ = async { tokio::join!(ask(0), ask(1), ask(2), ask(3)) } => panic!("a request that hangs was answered"),
        }
        let output = std::process::Command::new(SPENDGUARD)
            .args(["limits", "explain", "limit-0", "--admin-url", &format!("http://{}", guard.admin_address)])
            .env("SPENDGUARD_ADMIN_TOKEN", ADMIN_TOKEN)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.starts_with("org: settled "), "{text}");
    });
}
