//! Names in limits, and the keys and projects that get them, on several guards: a limit does not
//! stay without what it names, whatever fails.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::json;
use spendguard::clock::Clock;
use spendguard::directory::keyring::NewKey;
use spendguard::guard::audit::Actor;

use crate::cluster::Cluster;
use crate::cluster_changes::{Pair, asks_with};
use crate::harness::run;
use crate::process::Serving;

/// What puts limits in force is refused.
const REFUSED: &str = "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION \
                       'no'; END $$; CREATE TRIGGER fault BEFORE INSERT ON active_limit FOR EACH ROW EXECUTE FUNCTION \
                       refuse()";
const REPAIRED: &str = "DROP TRIGGER fault ON active_limit";

const NAMES: &str = "[[limit]]\nname = \"of-a-key\"\nonly = { key = [\"test\", \"chosen\"] }\nunit = \"requests\"\n\
                     window = \"day\"\nhard = 9\n\
                     [[limit]]\nname = \"of-a-project\"\nonly = { project = [\"P\"] }\nwindow = \"day\"\nhard = 0\n\
                     [[limit]]\nname = \"of-an-account\"\nonly = { key = [\"Secret Key\"] }\nunit = \"tokens\"\n\
                     window = \"minute\"\nhard = 1\n";

/// Makes what a limit names; its id.
async fn make(pair: &Pair, limit: &str) -> Result<String, String> {
    let (by, directory) = (Actor::configured(), &pair.a.directory);
    match limit {
        "of-a-key" => {
            let new = NewKey { name: "chosen".into(), ..NewKey::default() };
            let made = directory.create_key(new, &by).await;
            made.map(|(key, _)| key.id.to_string()).map_err(|error| error.to_string())
        }
        "of-a-project" => {
            let made = directory.create_project(None, "P".into(), &by).await;
            made.map(|project| project.id.to_string()).map_err(|error| error.to_string())
        }
        _ => {
            let made = directory.create_account("default", "A".into(), Some(None), &by).await;
            made.map(|(account, _)| account.keys[0].clone()).map_err(|error| error.to_string())
        }
    }
}

#[test]
fn what_a_limit_names_is_made_together_with_what_the_limit_counts_or_not_at_all() {
    run(async {
        let pair = Pair::with("-c fsync=off", NAMES).await;
        // There is a past, which is not that of what is made.
        assert_eq!(asks_with(&pair.b, &pair.a.key).await.status, StatusCode::OK);
        while pair.postgres.ask("SELECT count(*) FROM rollup") == "0" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for limit in ["of-a-key", "of-a-project", "of-an-account"] {
            let rows = || {
                pair.postgres.ask(
                    "SELECT (SELECT count(*) FROM api_key), (SELECT count(*) FROM project), count(*) FROM service_account",
                )
            };
            let before = rows();
            pair.postgres.ask(REFUSED);
            assert!(make(&pair, limit).await.is_err(), "{limit}: made, and the limit is not in force for it");
            assert_eq!(rows(), before, "{limit}");
            pair.postgres.ask(REPAIRED);
            let version = || pair.postgres.ask("SELECT version FROM rules");
            let changes: i64 = version().parse().unwrap();
            let id = make(&pair, limit).await.unwrap();
            let rule = pair.postgres.ask(&format!("SELECT rule FROM active_limit WHERE name = '{limit}'"));
            assert!(rule.contains(&id), "{limit}: {rule}");
            assert_eq!(version(), (changes + 1).to_string(), "{limit}: one change");
        }
        let verified = pair.b.admin(Method::GET, "/guard/v1/ledger/verify", None).await.json();
        assert_eq!(verified["ok"], true, "{verified:#}");
    });
}

/// Asks until a limit refuses.
async fn is_bound_soon(guards: [&Serving; 2], key: &str) {
    let began = Clock::default();
    for guard in guards {
        while guard.chat(key, &[], json!({})).await.status != StatusCode::TOO_MANY_REQUESTS {
            assert!(began.running() < Duration::from_secs(20), "the limit stays without what it names");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[test]
fn a_limit_that_could_not_be_put_in_force_for_what_it_names_is_so_later_without_a_change() {
    run(async {
        let named = "[[limit]]\nname = \"by-name\"\nonly = { key = [\"late\"] }\nunit = \"requests\"\nwindow = \"day\"\n\
                     hard = 1\n";
        let cluster = Cluster::new(named);
        let (a, b) = (cluster.serve(), cluster.serve());
        let make = async |name: &str| {
            let made = a.ask(Method::POST, "/guard/v1/keys", Some(json!({ "name": name }))).await;
            let text = |field: &str| made[field].as_str().unwrap().to_owned();
            (format!("/guard/v1/keys/{}", text("id")), text("value"))
        };
        let ((first, first_key), (second, second_key)) = (make("first").await, make("second").await);
        let named = Some(json!({ "name": "late" }));
        for key in [&first_key, &second_key] {
            assert_eq!(b.chat(key, &[], json!({})).await.status, StatusCode::OK);
        }
        cluster.postgres.ask(REFUSED);
        a.ask(Method::PATCH, &first, named.clone()).await;
        cluster.postgres.ask(REPAIRED);
        is_bound_soon([&a, &b], &first_key).await;
        // The limit is the first key's, until that is revoked. A revocation waits for no limit.
        b.ask(Method::PATCH, &second, named).await;
        assert_eq!(a.chat(&second_key, &[], json!({})).await.status, StatusCode::OK);
        cluster.postgres.ask(REFUSED);
        a.ask(Method::DELETE, &first, None).await;
        assert_eq!(b.chat(&first_key, &[], json!({})).await.status, StatusCode::UNAUTHORIZED);
        cluster.postgres.ask(REPAIRED);
        is_bound_soon([&a, &b], &second_key).await;
        a.verify().await;
    });
}
