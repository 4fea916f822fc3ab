//! Files at upstream: what batches are made of and have made, and what vector stores keep.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use crate::account::{Account, locked};
use crate::answers::{answer, cut, disturbed_or_denied, page, refuse};
use crate::batches;
use crate::chance::Chance;
use crate::openai::{Question, whole};
use crate::wire::End;

/// The path that takes one.
pub(crate) const PATH: &str = "/v1/files";
/// The media type of a form that has one.
pub(crate) const FORM: &str = "multipart/form-data; boundary=b7";

/// The texts of all files that were uploaded, by their ids.
pub(crate) type Files = Mutex<BTreeMap<String, String>>;

/// A form of a file.
pub(crate) fn form(name: &str, purpose: &str, text: &str) -> String {
    format!(
        "--b7\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\n{purpose}\r\n\
         --b7\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{text}\r\n--b7--\r\n"
    )
}

/// The name and the text of the file in a form.
fn read(form: &str) -> Option<(&str, &str)> {
    let (name, rest) = form.split_once("filename=\"")?.1.split_once('"')?;
    let (text, _) = rest.split_once("\r\n\r\n")?.1.split_once("\r\n--b7")?;
    Some((name, text))
}

/// Keeps a file; none if the connection is over.
pub(crate) async fn keep(end: &mut End, account: &Account, chance: &mut Chance, form: &[u8]) -> Option<()> {
    let form = String::from_utf8_lossy(form);
    let Some((name, text)) = read(&form) else { return refuse(end, "400 Bad Request") };
    sleep(Duration::from_millis(chance.one(&[0, 1, 10, 100, 900]))).await;
    let id = format!("file-{name}");
    let object =
        json!({ "id": id, "object": "file", "bytes": text.len(), "filename": name, "purpose": "batch" });
    let fate = chance.within(0, 99);
    if fate < 2 {
        return refuse(end, "500 Oops");
    }
    locked(&account.files).insert(id, text.to_owned());
    match fate {
        2 => end.send(page("504 Gateway Timeout").as_bytes(), None).ok(),
        3 => None,
        4 => cut(end, &object.to_string()),
        _ => whole(end, "200 OK", &object.to_string()),
    }
}

/// Answers a question about a file; none if the connection is over.
pub(crate) async fn show(
    end: &mut End,
    account: &Account,
    chance: &mut Chance,
    Question { method, id, below, .. }: Question<'_>,
) -> Option<()> {
    if disturbed_or_denied(end, account, chance).await? {
        return Some(());
    }
    let made = batches::file(account, id);
    let Some(text) = made.or_else(|| locked(&account.files).get(id).cloned()) else {
        return refuse(end, "404 Not Found");
    };
    match (method, below) {
        ("get", "/content") if chance.percent(10) => whole(end, "200 OK", "<html>all is well</html>"),
        ("get", "/content") => answer(end, chance, &text).0,
        ("get", "") => {
            let object = json!({ "id": id, "object": "file", "bytes": text.len() });
            answer(end, chance, &object.to_string()).0
        }
        _ => refuse(end, "404 Not Found"),
    }
}
