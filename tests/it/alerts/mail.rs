//! E-mail: whom a spend alert reaches, and what a mail server that refuses or
//! hangs does to others.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::{LIMIT, Receiver, alerts};
use crate::harness::{House, run};

/// Whom a mail was for, and what it said.
type Mail = (Vec<String>, String);

/// A mail server on this machine: what it took, and whom it refuses.
#[derive(Clone, Default)]
struct Server {
    took: Arc<Mutex<Vec<Mail>>>,
    refuses: &'static str,
    /// Whether it takes connections and then says nothing.
    hangs: bool,
}

impl Server {
    async fn listen(&self) -> u16 {
        self.listen_at("127.0.0.1").await
    }

    async fn listen_at(&self, address: &str) -> u16 {
        let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), self.clone());
        // The test's own tasks; they end with the test's runtime.
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = server.clone();
                tokio::task::spawn_local(async move { server.converse(socket).await });
            }
        });
        port
    }

    async fn converse(self, socket: TcpStream) {
        let mut socket = BufReader::new(socket);
        if self.hangs {
            return std::future::pending().await;
        }
        let (mut receivers, mut line) = (Vec::new(), String::new());
        socket.write_all(b"220 here\r\n").await.unwrap();
        while let Ok(1..) = socket.read_line(&mut line).await {
            let said = std::mem::take(&mut line);
            let answer = match said.split_once([' ', ':']).map_or(said.trim(), |(verb, _)| verb) {
                "RCPT" => {
                    let address = said.split(['<', '>']).nth(1).unwrap().to_owned();
                    let is_refused = address == self.refuses;
                    receivers.push(address);
                    if is_refused { "550 no such user" } else { "250 ok" }
                }
                "DATA" => {
                    socket.write_all(b"354 go on\r\n").await.unwrap();
                    let mut mail = String::new();
                    while !mail.ends_with("\r\n.\r\n") {
                        socket.read_line(&mut mail).await.unwrap();
                    }
                    self.took.lock().unwrap().push((std::mem::take(&mut receivers), mail));
                    "250 taken"
                }
                "QUIT" => "221 bye",
                _ => "250 ok",
            };
            if socket.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() {
                return;
            }
        }
    }

    /// Waits until so much has come, and a little longer.
    async fn after(&self, count: usize) -> Vec<Mail> {
        for _ in 0..500 {
            if self.took.lock().unwrap().len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut took = self.took.lock().unwrap().clone();
        took.sort();
        took
    }
}

/// A guard that mails through `server`, and tells `receiver` as well.
async fn house(server: Option<&Server>, receiver: &Receiver, limits: &str) -> (House, tempfile::TempDir) {
    let mut config = limits.to_owned();
    if let Some(server) = server {
        let port = server.listen().await;
        config += &format!(
            "[alerts.email]\nsmtp = \"smtp://127.0.0.1:{port}\"\nfrom = \"guard@acme.example\"\nto = [\"ops@acme.example\"]\n"
        );
    }
    super::house(&[receiver], &config).await
}

async fn make_spend_alert(house: &House, recipients: Value, prefix: Option<&str>) -> String {
    let body = json!({
        "threshold_amount": 1, "currency": "USD", "interval": "month",
        "notification_channel": { "type": "email", "recipients": recipients, "subject_prefix": prefix },
    });
    let made = house.admin(Method::POST, "/v1/organization/spend_alerts", Some(body)).await;
    assert_eq!(made.status, StatusCode::OK, "{made:?}");
    made.json()["id"].as_str().unwrap().to_owned()
}

/// Spends a dollar.
async fn spend(house: &House) {
    assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
    house.settled().await;
    let entry = house.entries().await;
    let settled = entry.iter().find(|entry| entry["kind"] == "settle").unwrap();
    let path = format!("/guard/v1/ledger/{}/adjust", settled["id"].as_str().unwrap());
    let adjusted =
        house.admin(Method::POST, &path, Some(json!({ "amount_usd": "1", "note": "a dollar more" }))).await;
    assert!(adjusted.status.is_success(), "{adjusted:?}");
}

/// The mail deliveries of a limit's alert, by their recipients.
async fn deliveries(house: &House, limit: &str) -> Vec<Value> {
    let all = alerts(house).await;
    let alert = all.iter().find(|alert| alert["limit"] == limit).unwrap();
    let all = alert["deliveries"].as_array().unwrap().iter();
    all.filter(|delivery| delivery["channel"] == "email").cloned().collect()
}

/// The first of them.
async fn delivery(house: &House, limit: &str) -> Value {
    deliveries(house, limit).await.remove(0)
}

#[test]
fn a_spend_alert_is_mailed_to_its_own_recipients_and_sent_to_other_channels_too() {
    run(async {
        let (server, receiver) = (Server::default(), Receiver::default());
        let (house, _folder) = house(Some(&server), &receiver, LIMIT).await;
        let id =
            make_spend_alert(&house, json!(["cfo@acme.example", "b@acme.example"]), Some("Budget:")).await;
        spend(&house).await;
        let took = server.after(3).await;
        let receivers: Vec<_> = took.iter().map(|(receivers, _)| receivers.join(" ")).collect();
        assert_eq!(receivers, ["b@acme.example", "cfo@acme.example", "ops@acme.example"], "{took:?}");
        for (_, mail) in &took[..2] {
            assert!(mail.contains("Subject: Budget: [") && mail.contains(&id), "{mail}");
        }
        assert!(took[2].1.contains("monthly") && !took[2].1.contains("Budget:"), "{}", took[2].1);
        let mut heard: Vec<Value> =
            receiver.after(2).await.into_iter().map(|(_, body)| body["data"]["limit"].clone()).collect();
        heard.sort_by_key(ToString::to_string);
        assert_eq!(heard, [json!(id), json!("monthly")]);
        let own = deliveries(&house, &id).await;
        for (own, recipient) in own.iter().zip(["b@acme.example", "cfo@acme.example"]) {
            assert_eq!((&own["state"], &own["attempts"]), (&json!("sent"), &json!(1)), "{own}");
            assert_eq!(own["recipients"], json!([recipient]));
        }
        assert_eq!(
            (own.len(), &delivery(&house, "monthly").await["recipients"]),
            (2, &json!(["ops@acme.example"]))
        );
    });
}

#[test]
fn a_recipient_that_is_refused_is_shown_as_failed_and_stops_no_other() {
    run(async {
        let server = Server { refuses: "gone@acme.example", ..Server::default() };
        let receiver = Receiver::default();
        let (house, _folder) = house(Some(&server), &receiver, LIMIT).await;
        let bad = make_spend_alert(&house, json!(["gone@acme.example", "boss@acme.example"]), None).await;
        let good = make_spend_alert(&house, json!(["cfo@acme.example"]), None).await;
        spend(&house).await;
        assert_eq!(server.after(3).await.len(), 3);
        let both = deliveries(&house, &bad).await;
        assert_eq!(
            (&both[0]["recipients"], &both[0]["state"]),
            (&json!(["boss@acme.example"]), &json!("sent"))
        );
        let refused = &both[1];
        assert_eq!((&refused["state"], &refused["attempts"]), (&json!("failed"), &json!(1)), "{refused}");
        assert!(refused["error"].as_str().unwrap().contains("no such user"), "{refused}");
        assert_eq!(delivery(&house, &good).await["state"], "sent");
        assert_eq!(delivery(&house, "monthly").await["state"], "sent");
    });
}

#[test]
fn without_a_mail_server_a_spend_alert_says_that_its_recipients_get_no_message() {
    run(async {
        let receiver = Receiver::default();
        let (house, _folder) = house(None, &receiver, LIMIT).await;
        let id = make_spend_alert(&house, json!(["cfo@acme.example"]), None).await;
        spend(&house).await;
        assert_eq!(receiver.after(2).await.len(), 2, "the webhook hears of both");
        let untold = delivery(&house, &id).await;
        assert_eq!((&untold["state"], &untold["attempts"]), (&json!("dropped"), &json!(0)), "{untold}");
        assert!(
            untold["error"].as_str().unwrap().starts_with("[alerts.email] is not configured"),
            "{untold}"
        );
        assert_eq!(untold["recipients"], json!(["cfo@acme.example"]));
        let of_limit = alerts(&house).await.into_iter().find(|alert| alert["limit"] == "monthly").unwrap();
        assert_eq!(of_limit["deliveries"].as_array().unwrap().len(), 1, "{of_limit}");
    });
}

#[test]
fn a_mail_server_that_hangs_is_given_up_after_half_a_minute_and_delays_no_other_channel() {
    run(async {
        let server = Server { hangs: true, ..Server::default() };
        let receiver = Receiver::default();
        let (house, _folder) = house(Some(&server), &receiver, LIMIT).await;
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        assert_eq!(receiver.after(1).await.len(), 1, "the webhook does not wait for the mail");
        // Nor does the proxy, or the listing.
        assert_eq!(house.chat(&[], json!({})).await.status, StatusCode::OK);
        assert_eq!(delivery(&house, "monthly").await["attempts"], 0);
        let given_up = async {
            while delivery(&house, "monthly").await["attempts"] == 0 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), given_up).await.unwrap();
        let hung = delivery(&house, "monthly").await;
        assert_eq!(hung["state"], "waiting", "{hung}");
        assert!(hung["error"].is_string() && hung["next_attempt_at"].is_i64(), "{hung}");
    });
}

#[test]
fn of_two_recipients_that_are_configured_each_has_a_delivery() {
    run(async {
        let server = Server { refuses: "gone@acme.example", ..Server::default() };
        let receiver = Receiver::default();
        let config = format!(
            "{LIMIT}[alerts.email]\nsmtp = \"smtp://127.0.0.1:{}\"\nfrom = \"guard@acme.example\"\n\
             to = [\"gone@acme.example\", \"Ops <ops@acme.example>\"]\n",
            server.listen().await
        );
        let (house, _folder) = super::house(&[&receiver], &config).await;
        spend(&house).await;
        let took = server.after(1).await;
        assert_eq!(took.len(), 1, "{took:?}");
        assert!(
            took[0].0 == ["ops@acme.example"] && took[0].1.contains("To: Ops <ops@acme.example>"),
            "{took:?}"
        );
        let states: Vec<Value> = deliveries(&house, "monthly")
            .await
            .iter()
            .map(|of| json!([of["recipients"][0], of["state"]]))
            .collect();
        assert_eq!(json!(states), json!([["gone@acme.example", "failed"], ["ops@acme.example", "sent"]]));
        let tested = house.admin(Method::POST, "/guard/v1/alerts/test", None).await.json();
        let of_mail =
            tested["data"].as_array().unwrap().iter().find(|test| test["channel"] == "email").unwrap();
        let error = of_mail["error"].as_str().unwrap();
        assert!(error.starts_with("gone@acme.example: ") && !error.contains("ops@"), "{tested}");
    });
}

#[test]
fn a_relay_without_tls_is_reported_and_used_only_where_the_configuration_says_so() {
    run(async {
        for (tls, state) in [("", "waiting"), ("tls = \"none\"\n", "sent")] {
            let (server, receiver) = (Server::default(), Receiver::default());
            // Not this machine's own address, to which mail may always go in the clear.
            let config = format!(
                "{LIMIT}[alerts.email]\nsmtp = \"smtp://127.0.0.2:{}\"\nfrom = \"guard@acme.example\"\n\
                 to = [\"ops@acme.example\"]\n{tls}",
                server.listen_at("127.0.0.2").await
            );
            let (house, _folder) = super::house(&[&receiver], &config).await;
            spend(&house).await;
            let mut state_of_mail = delivery(&house, "monthly").await;
            for _ in 0..500 {
                if state_of_mail["attempts"] != 0 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                state_of_mail = delivery(&house, "monthly").await;
            }
            assert_eq!(state_of_mail["state"], state, "{state_of_mail}");
            let says = |text: &str| state_of_mail["error"].as_str().is_some_and(|error| error.contains(text));
            assert_eq!(
                says("offers no STARTTLS") && says("tls = \"none\""),
                tls.is_empty(),
                "{state_of_mail}"
            );
            assert_eq!(server.took.lock().unwrap().is_empty(), tls.is_empty());
        }
    });
}
