//! How the upstream answers requests about jobs: truly, late, in part, with errors, with a gateway's page, or never.

use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::account::Account;
use crate::chance::Chance;
use crate::openai::{head, whole};
use crate::wire::{End, Mark};

/// Answers what is done; whether the answer is the true one.
pub(crate) fn answer(end: &mut End, chance: &mut Chance, text: &str) -> (Option<()>, bool) {
    answer_with(end, chance, text, None)
}

/// The same with a mark of the true answer.
pub(crate) fn answer_with(
    end: &mut End,
    chance: &mut Chance,
    text: &str,
    mark: Option<Mark>,
) -> (Option<()>, bool) {
    let fault = chance.within(0, 99);
    let answered = match fault {
        0..=3 => None,
        4..=6 => cut(end, text),
        7 => whole(end, "200 OK", "<html>all is well</html>"),
        8 => end.send(page("502 Bad Gateway").as_bytes(), None).ok(),
        _ => end.send(format!("{}{text}", head("200 OK", text.len())).as_bytes(), mark).ok(),
    };
    (answered, fault > 8)
}

/// What happens to questions about jobs before they are read; whether that was their answer, none
/// if the connection is over.
pub(crate) async fn disturbed(end: &mut End, account: &Account, chance: &mut Chance) -> Option<bool> {
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    let fault = chance.within(0, 99);
    if account.is_out() && fault < 95 {
        refuse(end, "500 Oops")?;
        return Some(true);
    }
    match fault {
        0..=2 => refuse(end, "500 Oops")?,
        4..=7 => end.send(page("404 Not Found").as_bytes(), None).ok()?,
        8 => return None,
        _ => return Some(false),
    }
    Some(true)
}

/// The same with denials of what is there.
pub(crate) async fn disturbed_or_denied(
    end: &mut End,
    account: &Account,
    chance: &mut Chance,
) -> Option<bool> {
    if disturbed(end, account, chance).await? {
        return Some(true);
    }
    let is_denied = chance.percent(4);
    if is_denied {
        refuse(end, "404 Not Found")?;
    }
    Some(is_denied)
}

/// Says that an object was made, or something else, as `fate` says: a number below a hundred.
pub(crate) fn made_known(end: &mut End, fate: u64, text: &str) -> Option<()> {
    match fate {
        4..=6 => end.send(page("504 Gateway Timeout").as_bytes(), None).ok(),
        7..=9 => None,
        10..=11 => cut(end, text),
        12..=13 => whole(end, "200 OK", "<html>all is well</html>"),
        _ => whole(end, "200 OK", text),
    }
}

pub(crate) fn page(status: &str) -> String {
    let text = "<html>a gateway</html>";
    head(status, text.len()).replace("application/json", "text/html") + text
}

pub(crate) fn cut(end: &mut End, text: &str) -> Option<()> {
    let text = format!("{}{}", head("200 OK", text.len()), &text[..text.len() / 2]);
    end.send(text.as_bytes(), None).ok()?;
    None
}

pub(crate) fn refuse(end: &mut End, status: &str) -> Option<()> {
    let error = json!({ "message": "no", "type": "invalid_request_error", "param": null, "code": null });
    whole(end, status, &json!({ "error": error }).to_string())
}
