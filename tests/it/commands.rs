//! The command line against a running guard: each command, what it prints, and
//! its exit code.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{ADMIN_TOKEN, run};
use crate::process::{Place, Process, SPENDGUARD};

struct Terminal {
    admin: String,
}

impl Terminal {
    /// Types a line; the code, and what is printed.
    fn types(&self, line: &str, input: &str) -> (i32, String) {
        let mut child = Command::new(SPENDGUARD)
            .args(line.split_whitespace())
            .env("SPENDGUARD_ADMIN_URL", format!("http://{}", self.admin))
            .env("SPENDGUARD_ADMIN_TOKEN", ADMIN_TOKEN)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = child.wait_with_output().unwrap();
        let printed = [done.stdout, done.stderr].concat();
        (done.status.code().unwrap(), String::from_utf8(printed).unwrap())
    }

    fn says(&self, line: &str, parts: &[&str]) -> String {
        let (code, text) = self.types(line, "");
        assert_eq!(code, 0, "{line}: {text}");
        for part in parts {
            assert!(text.contains(part), "{line}: no {part:?} in {text}");
        }
        text
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.says(&format!("{line} --format json"), &[])).unwrap()
    }

    fn fails(&self, code: i32, line: &str, part: &str) {
        let (ended, text) = self.types(line, "");
        assert!(ended == code && text.contains(part), "{line}: {ended}, {text}");
    }
}

async fn with_traffic(test: impl FnOnce(&Terminal)) {
    let (_fake, fake) = Process::fake();
    let place = Place::new(&fake, "[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 10\n");
    let guard = place.serve();
    let key = guard.make_key().await;
    guard.chat(&key, &[], json!({})).await;
    guard.ask(http::Method::GET, "/guard/v1/ledger", None).await;
    test(&Terminal { admin: guard.admin_address.clone() });
}

#[test]
fn keys_and_projects_are_made_listed_and_ended() {
    run(with_traffic(|at| {
        at.says("projects create Chatbot --id chatbot", &["created chatbot (Chatbot)"]);
        assert_eq!(at.json("projects create Search --id search")["name"], "Search");
        let made = at.says(
            "keys create --name web --project chatbot --expires 30d --models gpt-5*,o3",
            &["This is the only time"],
        );
        let id = made.split_whitespace().next().unwrap();
        let made = at.json("keys create --name program");
        assert!(made["value"].as_str().unwrap().starts_with("sk-guard-"), "{made}");
        let (code, text) = at.types("keys import --name legacy", "sk-in-use-already-0123456789\n");
        assert!(code == 0 && text.starts_with("imported key_"), "{text}");
        let (code, text) =
            at.types("keys create --name chosen --secret-stdin", "sk-chosen-0123456789-abcdef\n");
        assert!(code == 0 && !text.contains("sk-chosen"), "{text}");
        let keys = at.json("keys list");
        let web = keys.as_array().unwrap().iter().find(|key| key["name"] == "web").unwrap();
        assert_eq!((&web["models"], &web["project_id"]), (&json!(["gpt-5*", "o3"]), &json!("chatbot")));
        assert!(web["expires_at"].is_i64() && web["value"].is_null());
        at.says("keys list", &["web", "legacy", "chosen", "active"]);
        at.says(&format!("keys rotate {id} --grace 1h"), &[id, "This is the only time"]);
        at.says(&format!("keys revoke {id}"), &[&format!("revoked {id} (web)")]);
        let project = at.json("projects archive chatbot");
        assert_eq!((&project["id"], &project["status"]), (&json!("chatbot"), &json!("archived")));
        at.says("projects list", &["chatbot", "archived", "search", "active"]);
    }));
}

#[test]
fn limits_are_set_explained_and_removed() {
    run(with_traffic(|at| {
        at.says("limits set day --window day --hard 5 --soft 50%,4 --only model=gpt-5* --only tag:team=search --shadow", &["limit day is in force"]);
        let limits = at.json("limits list");
        let day = limits.as_array().unwrap().iter().find(|limit| limit["name"] == "day").unwrap();
        assert_eq!((&day["mode"], &day["soft"]), (&json!("shadow"), &json!(["50%", "4"])), "{day}");
        assert_eq!(day["only"]["tag"]["team"], json!(["search"]));
        assert_eq!(
            at.json("limits set keys --per key --unit tokens --window week --hard 1000")["name"],
            "keys"
        );
        at.says("limits list", &["day", "keys", "shadow", "file"]);
        at.says("limits list --format csv", &["limit,per,unit,window", "m,organization,usd,month,org"]);
        at.says("limits explain m", &["org: settled 0.", "0 open holds, 1 entries"]);
        assert_eq!(at.json("limits explain m")["agrees"], true);
        at.says("limits remove day", &["limit day is removed"]);
        at.fails(1, "limits remove day", "day");
        at.fails(1, "limits remove m", "configuration");
        at.fails(1, "limits explain nobody", "nobody");
        at.fails(2, "limits set bad --window fortnight --hard 1", "window");
        at.fails(2, "limits set bad --window day --hard 1 --only shoe=size", "shoe=size");
    }));
}

#[test]
fn usage_and_the_ledger_are_read_corrected_and_proved() {
    run(with_traffic(|at| {
        for by in ["key", "project", "model", "user", "day", "endpoint", "tag"] {
            at.says(&format!("usage --by {by}"), &["REQUESTS"]);
        }
        let csv = at
            .says("usage --by model --since 2020-01-01 --until 2100-01-01 --format csv", &["group,requests"]);
        assert_eq!(csv.lines().count(), 2, "{csv}");
        assert_eq!(at.json("usage --by model")[0]["requests"], 1);
        assert_eq!(at.json("usage --until 2020-01-01"), json!([]));
        at.says("ledger tail -n 5", &["ENTRY", "gpt-4o-mini", "reported"]);
        let entry = at.json("ledger tail -n 1");
        let id = entry["id"].as_str().unwrap();
        let made = at.says(&format!("ledger adjust {id} --usd -0.000001 --note refunded"), &["corrects"]);
        assert!(made.contains(&format!("corrects {id} by -0.000001 USD")), "{made}");
        let csv = at.says("ledger export", &["id,created_at", "refunded"]);
        assert_eq!(csv.lines().count(), 3, "{csv}");
        let lines = at.says("ledger export --format jsonl --since 2020-01-01", &[]);
        assert!(lines.lines().count() == 2 && lines.lines().all(|line| line.starts_with('{')), "{lines}");
        at.says("ledger verify", &["ok: 2 entries"]);
        assert_eq!(at.json("ledger verify")["ok"], true);
        let granted = at.json("credits add 5.00 --note order")["id"].as_str().unwrap().to_owned();
        let made = at.says(&format!("ledger adjust {granted} --usd -2 --note smaller"), &[]);
        let number = granted.split_once('_').unwrap().1;
        assert!(made.contains(&format!("corrects ent_{number} by -2 USD")), "{made}");
        at.fails(1, "ledger adjust ent_999 --usd 1 --note x", "no settled entry");
        at.fails(2, "usage --since someday", "a day such as");
        at.fails(2, "usage --by shoe", "shoe");
    }));
}

#[test]
fn prices_and_alerts_are_shown() {
    run(with_traffic(|at| {
        at.says("prices list", &["US dollars per million tokens", "gpt-4o-mini"]);
        at.says("prices show gpt-4o-mini", &["0.15", "at most"]);
        let rates = at.json("prices show gpt-4o-mini");
        assert_eq!((&rates[0]["model"], &rates[0]["input"]), (&json!("gpt-4o-mini"), &json!("0.15")));
        at.fails(1, "prices show gpt-nobody-knows", "gpt-nobody-knows");
        assert_eq!(at.json("alerts list"), json!([]));
        at.fails(2, "alerts test", "no channel is configured");
    }));
}

#[test]
fn a_guard_that_is_not_there_and_a_wrong_token_are_distinguished() {
    run(with_traffic(|at| {
        at.fails(1, "keys list --admin-url http://127.0.0.1:9", "is `spendguard serve` running?");
        at.fails(2, "keys list --token-file nowhere", "nowhere");
        at.fails(2, "keys destroy", "destroy");
        let done = Command::new(SPENDGUARD)
            .args(["keys", "list", "--admin-url", &format!("http://{}", at.admin)])
            .env("SPENDGUARD_ADMIN_TOKEN", "wrong-token-0123456789")
            .output()
            .unwrap();
        assert_eq!(done.status.code(), Some(1));
        assert!(String::from_utf8(done.stderr).unwrap().contains("admin token"));
    }));
}

#[test]
fn the_demo_starts_without_a_warning() {
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut demo = Command::new(SPENDGUARD)
        .args(["demo", "--seconds", "0"])
        .env("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:0")
        .env("SPENDGUARD_ADMIN__LISTEN", "127.0.0.1:0")
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(said.reopen().unwrap())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("the traffic is over")));
    Command::new("kill").args(["-s", "TERM", &demo.id().to_string()]).status().unwrap();
    assert!(demo.wait().unwrap().success());
    let said = std::fs::read_to_string(said.path()).unwrap();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
}

#[test]
fn help_names_the_values_that_a_limit_may_have_and_a_wrong_one_ends_with_2() {
    let nowhere = Terminal { admin: "127.0.0.1:1".to_owned() };
    let window = "[possible values: request, minute, hour, day, week, month, quarter, year, total]";
    let per = "organization, project, key, user, model or tag:NAME";
    let unit = "[possible values: usd, tokens, input_tokens, output_tokens, requests]";
    let help = nowhere.says("limits set --help", &[]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for values in [window, per, unit] {
        assert!(help.contains(values), "{values} in {help}");
    }
    nowhere.fails(2, "limits set budget --window fortnight", "possible values: request, minute");
}

#[test]
fn shells_get_completions_and_man_gets_a_page_for_each_command() {
    let nowhere = Terminal { admin: "127.0.0.1:1".to_owned() };
    for shell in ["bash", "zsh", "fish"] {
        nowhere.says(&format!("completions {shell}"), &["spendguard", "rotate", "explain"]);
    }
    let folder = tempfile::tempdir().unwrap();
    nowhere.says(&format!("man {}", folder.path().display()), &[]);
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert!(page("spendguard.1").contains("spend guard in front of the OpenAI API"));
    assert!(page("spendguard-limits-set.1").contains("quarter"), "with the values of a window");
    nowhere.fails(1, &format!("man {}", folder.path().join("missing").display()), "missing");
}

#[test]
fn without_a_token_the_places_that_were_looked_at_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let done = Command::new(SPENDGUARD)
        .args(["keys", "list"])
        .current_dir(folder.path())
        .env_remove("SPENDGUARD_ADMIN_TOKEN")
        .output()
        .unwrap();
    let text = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{text}");
    for place in ["--token-file", "SPENDGUARD_ADMIN_TOKEN", "[admin] token", "spendguard-data/admin-token"] {
        assert!(text.contains(place), "{place} in {text}");
    }
}

#[test]
fn limits_of_a_file_are_tried_and_their_mistakes_are_named_by_line() {
    run(with_traffic(|at| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new.toml");
        let limit = "[[limit]]\nname = \"none\"\nper = \"key\"\nwindow = \"day\"\nhard = 0\n";
        // A whole configuration, of which a secret is not here.
        let other = "[upstream]\napi_key = { env = \"NOT_HERE\" }\n";
        std::fs::write(&file, format!("{other}{limit}")).unwrap();
        let command = format!("limits try --file {}", file.display());
        at.says(
            &format!("{command} --since 1h"),
            &["1 of 1 requests would have been rejected", "none", "key_"],
        );
        let trial = at.json(&format!("{command} --since 2020-01-01"));
        assert_eq!(
            (&trial["rejected"], &trial["limits"][0]["subjects_total"]),
            (&json!(1), &json!(1)),
            "{trial}"
        );
        std::fs::write(&file, limit.replace("hard = 0", "hard = -1")).unwrap();
        at.fails(2, &command, "new.toml:5: limit[0].hard: must not be negative");
        std::fs::write(&file, other).unwrap();
        at.fails(2, &command, "there is no [[limit]] in this file");
        at.fails(2, "limits try --file /no/such/file", "can't be read");
        std::fs::write(&file, limit).unwrap();
        at.fails(2, &format!("{command} --since soon"), "use Unix seconds or a day");
    }));
}
