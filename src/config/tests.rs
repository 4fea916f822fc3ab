//! The shipped file is true, and every mistake says where it is.

use std::path::Path;

use super::load;
use crate::config::text::schema;
use crate::telemetry::Ratio;

const SHIPPED: &str = include_str!("../../config/spendguard.toml");

fn with(text: &str, environment: &[(&str, &str)]) -> Result<super::Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let shown = file.display().to_string();
    load(Some(&file), environment).map_err(|error| error.to_string().replace(&shown, "x.toml"))
}

#[test]
fn no_file_is_a_configuration() {
    let settings = load(None, []).unwrap();
    assert_eq!(settings.server.listen.port(), 8080);
    assert!(settings.pass_through && settings.limits.is_empty());
    let keyed = load(None, [("OPENAI_API_KEY".to_owned(), "sk-x".to_owned())]).unwrap();
    assert!(!keyed.pass_through, "with a key of its own it hands out keys");
}

#[test]
fn a_regional_base_url_decides_the_region_unless_one_is_written() {
    let region = |text: &str| with(text, &[]).unwrap().pricing.region;
    assert_eq!(region(""), None);
    let regional = "[upstream]\nbase_url = \"https://EU.api.openai.com/v1\"\n";
    assert_eq!(region(regional).as_deref(), Some("eu"));
    assert_eq!(region(&format!("{regional}[pricing]\nregion = \"global\"\n")), None);
    assert_eq!(region("[upstream]\nbase_url = \"https://llm.acme.example/v1\"\n"), None);
    assert_eq!(region("[pricing]\nregion = \"us\"\n").as_deref(), Some("us"));
}

#[test]
fn the_shipped_file_changes_nothing_and_every_example_in_it_works() {
    assert!(with(SHIPPED, &[]).unwrap().limits.is_empty());
    let uncommented: String = SHIPPED
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let secrets = [
        ("SPENDGUARD_ADMIN_TOKEN", "0123456789abcdef"),
        ("OPENAI_API_KEY", "sk-x"),
        ("SMTP_PASSWORD", "x"),
        ("SPENDGUARD_WEBHOOK_SECRET", "whsec_x"),
        ("SLACK_WEBHOOK_URL", "https://slack.example/x"),
        ("OTLP_AUTHORIZATION", "Bearer x"),
        ("DATABASE_URL", "postgres://user:password@db.example/spendguard"),
    ];
    let settings = with(&uncommented, &secrets).unwrap();
    assert!(settings.alerts.email.is_some() && settings.otlp.is_some());
    assert_eq!(settings.limits[0].thresholds(), [12_000_000_000]);
    assert_eq!(settings.pricing.overrides[0].model, "my-model");
}

#[test]
fn every_key_of_the_schema_is_in_the_shipped_file() {
    let schema: serde_json::Value = serde_json::from_str(&schema()).unwrap();
    let mut tables = vec![&schema["properties"]];
    tables.extend(schema["$defs"].as_object().unwrap().values().map(|table| &table["properties"]));
    let keys = tables.iter().filter_map(|table| table.as_object()).flat_map(serde_json::Map::keys);
    for key in keys {
        assert!(SHIPPED.contains(key.as_str()), "{key} is not in config/spendguard.toml");
    }
}

#[test]
fn a_guard_has_the_connections_that_it_needs() {
    let environment = [
        ("DATABASE_URL", "postgres://u@db.example/spendguard"),
        ("SPENDGUARD_ADMIN_TOKEN", "0123456789abcdef"),
    ];
    let with_max = |max: usize| {
        let text = format!("[storage]\nurl = {{ env = \"DATABASE_URL\" }}\nconnections_max = {max}\n");
        with(&text, &environment)
    };
    let said = with_max(5).unwrap_err();
    assert!(said.contains("storage.connections_max") && said.contains("at least 6 connections"), "{said}");
    assert_eq!(with_max(6).unwrap().database.unwrap().connections_max, 6);
}

#[test]
fn the_environment_is_over_the_file() {
    let environment =
        [("SPENDGUARD_SERVER__LISTEN", "127.0.0.1:9"), ("SPENDGUARD_GUARD__TOOL_CALLS_MAX", "3")];
    let settings = with("[server]\nlisten = \"127.0.0.1:1\"\n", &environment).unwrap();
    assert_eq!((settings.server.listen.port(), settings.guard.tool_calls_max), (9, 3));
    let error = with("", &[("SPENDGUARD_SERVER__DRAIN", "soon")]).unwrap_err();
    assert!(error.starts_with("SPENDGUARD_SERVER__DRAIN: \"soon\" is no duration"), "{error}");
}

#[test]
fn mistakes_name_file_line_key_and_remedy() {
    let limit = "[[limit]]\nname = \"a\"\nwindow = \"month\"\n";
    let cases = [
        (
            "[server]\nlisen = \"x\"\n".to_owned(),
            "x.toml:2: server.lisen: no such key; did you mean \"listen\"?",
        ),
        ("[server]\nlisten = \"x\"\n".to_owned(), "x.toml:2: server.listen: \"x\" is no address with a port"),
        ("\n[server\n".to_owned(), "x.toml:2: "),
        ("[server]\ndrain = \"5\"\n".to_owned(), "x.toml:2: server.drain: \"5\" is no duration"),
        ("[time]\nzone = \"Mars\"\n".to_owned(), "x.toml:2: time.zone: no such IANA time zone"),
        (
            "[guard]\nwhen_tight = \"x\"\n".to_owned(),
            "x.toml:2: guard.when_tight: \"x\" is not known; use \"clamp\" or \"reject\"",
        ),
        (
            "[keys]\nunknown = \"reject\"\n".to_owned(),
            "x.toml:2: keys.unknown: rejecting unknown keys needs upstream.api_key",
        ),
        (
            "[admin]\ntoken = { env = \"NO_SUCH\" }\n".to_owned(),
            "x.toml:2: admin.token: the environment has no NO_SUCH",
        ),
        (limit.to_owned(), "x.toml:1: limit[0].hard: give a hard cap or a soft threshold"),
        (format!("{limit}soft = [\"50%\"]\n"), "x.toml:4: limit[0].soft: a share needs a hard cap"),
        (format!("{limit}hard = -1\n"), "x.toml:4: limit[0].hard: must not be negative"),
        (
            format!("{limit}hard = 1\n{limit}hard = 2\n"),
            "x.toml:6: limit[1].name: another limit is named \"a\"",
        ),
        (format!("{limit}hard = 1\nunit = \"euro\"\n"), "x.toml:5: limit[0].unit: use usd, tokens"),
        ("[[limit]]\nname = \"a\"\n".to_owned(), "x.toml:1: limit[0].window: missing; give it"),
        (format!("{limit}hrad = 1\n"), "x.toml:4: limit[0].hrad: no such key; did you mean \"hard\"?"),
        (
            "[[price]]\nmodel = \"m\"\ninput = \"0.00000001\"\n".to_owned(),
            "x.toml:1: price: m: \"0.00000001\" is negative or finer",
        ),
        (
            "[endpoints]\nallow = [\"/v1/files\"]\n".to_owned(),
            "x.toml:2: endpoints.allow: write each as \"POST /v1/files\"",
        ),
        (
            "[endpoints]\nallow = [\"POST /v1/evals/{}/runs\", \"POST //v1/responses/\"]\n".to_owned(),
            "x.toml:2: endpoints.allow: \"POST //v1/responses/\" looks like an endpoint that is metered",
        ),
    ];
    for (text, expected) in cases {
        let error = with(&text, &[]).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  says  {error}\n  not   {expected}");
    }
    let unknown = with("[time]\nplace = \"x\"\n", &[]).unwrap_err();
    assert_eq!(unknown, "x.toml:2: time.place: no such key; the keys here are zone");
    let missing = load(Some(Path::new("/no/such/file")), []).unwrap_err().to_string();
    assert!(missing.starts_with("/no/such/file: can't be read"), "{missing}");
}

#[test]
fn mistakes_of_tags_name_their_remedy() {
    for (text, expected) in [
        (
            "[tags]\nteam = [\"user\"]\nrun = [\"authorization\"]\n",
            "x.toml:3: tags.run: \"authorization\" is no source; use x-spendguard-tags, prompt_cache_key,",
        ),
        ("[tags]\nrun = []\n", "x.toml:2: tags.run: give 1 to 16 sources"),
        ("[tags]\n\"a b\" = [\"user\"]\n", "x.toml:2: tags.a b: the name of a tag has 1 to 64"),
        (
            "[[limit]]\nname = \"a\"\nwindow = \"month\"\nper = \"tag:a b\"\nhard = 1\n",
            "x.toml:4: limit[0].per: use organization, project,",
        ),
    ] {
        let error = with(text, &[]).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  says  {error}\n  not   {expected}");
    }
}

#[test]
fn mistakes_of_fuses_name_their_remedy() {
    let fuse = "[[fuse]]\nname = \"a\"\nwithin = \"10m\"\n";
    for (text, expected) in [
        (fuse.to_owned(), "x.toml:1: fuse[0].usd: give an amount, or times_usual, or both"),
        ("[[fuse]]\nwithin = \"10m\"\nusd = 5\n".to_owned(), "x.toml:1: fuse[0].name: missing; give it"),
        (
            "[[fuse]]\nname = \"a b\"\nwithin = \"10m\"\nusd = 5\n".to_owned(),
            "x.toml:2: fuse[0].name: use 1 to 64 of a-z, A-Z, 0-9, '.', '_' and '-'",
        ),
        (format!("{fuse}usd = 5\n{fuse}usd = 6\n"), "x.toml:6: fuse[1].name: another fuse is named \"a\""),
        (
            format!("{fuse}usd = 5\nper = \"user\"\n"),
            "x.toml:5: fuse[0].per: \"user\" is not known; use organization, project or key",
        ),
        (format!("{fuse}usd = 0\n"), "x.toml:4: fuse[0].usd: must be above zero"),
        (format!("{fuse}usd = \"five\"\n"), "x.toml:4: fuse[0].usd: "),
        (
            format!("{fuse}times_usual = 1\n"),
            "x.toml:4: fuse[0].times_usual: give a whole number from 2 to 1000",
        ),
        (format!("{fuse}times_usual = 3\nusd_min = 0\n"), "x.toml:5: fuse[0].usd_min: must be above zero"),
        (
            "[[fuse]]\nname = \"a\"\nusd = 5\nwithin = \"30s\"\n".to_owned(),
            "x.toml:4: fuse[0].within: \"30s\" is out of range; give 1m to 24h",
        ),
        (
            "[[fuse]]\nname = \"a\"\nusd = 5\nwithin = \"25h\"\n".to_owned(),
            "x.toml:4: fuse[0].within: \"25h\" is out of range; give 1m to 24h",
        ),
        (
            format!("{fuse}usd = 5\ncool_down = \"0s\"\n"),
            "x.toml:5: fuse[0].cool_down: \"0s\" is out of range; give 1s to 366d",
        ),
        (
            format!("{fuse}usd = 5\ncool_down = \"soon\"\n"),
            "x.toml:5: fuse[0].cool_down: \"soon\" is no duration",
        ),
        (format!("{fuse}uds = 5\n"), "x.toml:4: fuse[0].uds: no such key; did you mean \"usd\"?"),
    ] {
        let error = with(&text, &[]).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  says  {error}\n  not   {expected}");
    }
    let many: String =
        (0..101).map(|at| fuse.replace("\"a\"", &format!("\"f{at}\"")) + "usd = 5\n").collect();
    let error = with(&many, &[]).unwrap_err();
    assert!(error.contains("fuse: there are more than 100; remove some"), "{error}");
}

#[test]
fn mistakes_of_the_export_name_their_remedy() {
    for (text, expected) in [
        (
            "[otlp]\nendpoint = \"collector:4318\"\n",
            "x.toml:2: otlp.endpoint: is no base URL; write it as \"http://127.0.0.1:4318\"",
        ),
        ("[otlp]\nendpoint = \"http://u:p@h:4318\"\n", "x.toml:2: otlp.endpoint: a base URL has no user"),
        ("[otlp]\nendpoint = \"http://h/v1/traces\"\n", "x.toml:2: otlp.endpoint: leave out the path"),
        ("[otlp]\ntraces_ratio = \"101%\"\n", "x.toml:2: otlp.traces_ratio: \"101%\" is no percentage"),
        ("[otlp]\ntraces_ratio = \"0.5\"\n", "x.toml:2: otlp.traces_ratio: \"0.5\" is no percentage"),
        ("[otlp]\nmetrics_interval = \"10ms\"\n", "x.toml:2: otlp.metrics_interval: must be \"1s\" at least"),
        ("[otlp]\ntimeout = \"0s\"\n", "x.toml:2: otlp.timeout: must be above zero"),
        ("[otlp]\nqueue = 0\n", "x.toml:2: otlp.queue: must be 1 to 1000000"),
        (
            "[otlp.headers]\nhost = { env = \"X\" }\n",
            "x.toml:2: otlp.headers.host: the guard writes this header itself",
        ),
        (
            "[otlp.headers]\nauthorization = { env = \"NO_SUCH\" }\n",
            "x.toml:2: otlp.headers.authorization: the environment has no NO_SUCH",
        ),
    ] {
        let error = with(text, &[]).unwrap_err();
        assert!(error.starts_with(expected), "{text}\n  says  {error}\n  not   {expected}");
    }
    let ratio =
        |text: &str| with(&format!("[otlp]\nendpoint = \"http://h\"\ntraces_ratio = {text:?}\n"), &[]);
    let below = |text: &str| ratio(text).unwrap().otlp.unwrap().ratio;
    assert_eq!(
        (below("100%"), below("0.5%"), below("0%")),
        (Ratio::of(1, 1), Ratio::of(1, 200), Ratio::of(0, 1))
    );
}

#[test]
fn a_quoted_key_is_a_name_and_no_path() {
    for key in ["server.listen", "limit[0]", "limit[9223372036854775807]", "limit[-9223372036854775808]"] {
        let error = with(&format!("\n{key:?} = 1\n[server]\nlisten = \"127.0.0.1:1\"\n"), &[]).unwrap_err();
        assert!(error.starts_with(&format!("x.toml:2: {key}: no such key")), "{error}");
    }
}

#[test]
fn a_variable_cannot_name_an_element_of_a_list() {
    let error = with("", &[("SPENDGUARD_LIMIT[9223372036854775807]__HARD", "1")]).unwrap_err();
    assert!(error.starts_with("SPENDGUARD_LIMIT[9223372036854775807]__HARD: no such key"), "{error}");
}

#[test]
fn of_several_mistakes_the_first_is_named() {
    for _ in 0..20 {
        let error = with("limit = \"x\"\nprice = 1\n[server]\nlisten = 5\n[guard]\nclamp = 1\n", &[]);
        let error = error.unwrap_err();
        assert!(error.starts_with("x.toml:1: limit: invalid type"), "{error}");
    }
}

/// Every key that the shipped file shows, with its section.
fn shipped_keys() -> Vec<(String, String)> {
    let (mut section, mut keys) = (String::new(), Vec::new());
    for line in SHIPPED.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            name.trim_start_matches('[').split(']').next().unwrap().clone_into(&mut section);
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            keys.push((section.clone(), key.to_owned()));
        }
    }
    keys
}

#[test]
fn what_is_in_force_names_every_key_and_loads_again_to_the_same() {
    let environment = [("OPENAI_API_KEY", "sk-upstream-secret"), ("SMTP_PASSWORD", "mail-secret")];
    for text in [
        "",
        "[storage]\nkeep = \"400d\"\n[tags]\nrun = [\"user\", \"metadata.a\"]\n[[limit]]\nname = \"m\"\nwindow = \"month\"\nhard = 24.5\nsoft = [\"50%\", 3]\n",
    ] {
        let settings = with(text, &environment).unwrap();
        let shown = &settings.text;
        for (section, key) in shipped_keys() {
            let is_list = [
                "project",
                "limit",
                "fuse",
                "price",
                "tags",
                "alerts.email",
                "alerts.webhook",
                "alerts.slack",
            ];
            if is_list.contains(&section.as_str()) {
                continue;
            }
            let is_set = shown
                .split(&format!("[{section}]"))
                .nth(1)
                .is_some_and(|of| of.contains(&format!("\n{key} = ")));
            let is_table = shown.contains(&format!("[{section}.{key}]"));
            assert!(
                is_set || is_table || shown.contains(&format!("# {section}.{key}\n")),
                "{section}.{key}: {shown}"
            );
        }
        assert!(!shown.contains("secret"), "{shown}");
        let again = with(shown, &environment).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(&again.text, shown);
        assert_eq!(format!("{:?}", again.limits), format!("{:?}", settings.limits));
        assert_eq!(again.tags, settings.tags);
    }
}

#[test]
fn addresses_that_may_be_secrets_are_masked_in_what_is_in_force() {
    let text = "[alerts.email]\nsmtp = \"smtp://u%40x@mail.example:587\"\npassword = { env = \"SMTP_PASSWORD\" }\n\
                from = \"a@b.example\"\nto = [\"c@d.example\"]\n[[alerts.webhook]]\n\
                url = \"https://h.example/hooks/abc?x=1\"\nsecret = { env = \"HOOK\" }\n";
    let hook = ("HOOK", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let settings = with(text, &[("SMTP_PASSWORD", "pass-word-1"), hook]).unwrap();
    let shown = &settings.text;
    assert!(
        shown.contains("url = \"https://h.example/***\"") && shown.contains("u%40x@mail.example"),
        "{shown}"
    );
    assert!(
        !shown.contains("hooks/abc") && !shown.contains("pass-word-1") && !shown.contains("MfKQ9r8"),
        "{shown}"
    );
    let again = with(shown, &[("SMTP_PASSWORD", "pass-word-1"), hook]).unwrap();
    assert_eq!(&again.text, shown);
}

#[test]
fn entries_are_kept_for_a_day_at_least() {
    assert_eq!(with("[storage]\nkeep = \"400d\"\n", &[]).unwrap().keep.unwrap().as_secs(), 400 * 86_400);
    let refused = with("[storage]\nkeep = \"1h\"\n", &[]).unwrap_err();
    assert!(refused.starts_with("x.toml:2: storage.keep: \"1h\" is too short"), "{refused}");
}

#[test]
fn an_endpoint_that_leads_past_every_limit_can_not_be_allowed() {
    for (allow, expected) in [
        (
            "\"POST /v1/files\", \"POST /v1/realtime/sessions\"",
            "x.toml:2: endpoints.allow: \"POST /v1/realtime/sessions\" can't be forwarded unmetered. It makes a \
             secret that talks to OpenAI directly, past every limit.",
        ),
        (
            "\"POST /v1/realtime/calls/{}/accept\"",
            "x.toml:2: endpoints.allow: \"POST /v1/realtime/calls/{}/accept\" can't be forwarded unmetered. Its audio",
        ),
    ] {
        let error = with(&format!("[endpoints]\nallow = [{allow}]\n"), &[]).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}
