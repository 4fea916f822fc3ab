//! What a browser does, as far as a server can tell.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::harness::{ADMIN_TOKEN, Answer, House, call};

/// A browser: its cookies and its language.
pub(super) struct Browser<'a> {
    house: &'a House,
    pub(super) cookies: Vec<(String, String)>,
    pub(super) language: &'static str,
}

impl<'a> Browser<'a> {
    pub(super) fn new(house: &'a House) -> Self {
        Self { house, cookies: Vec::new(), language: "en" }
    }

    pub(super) async fn signed_in(house: &'a House) -> Self {
        let mut browser = Self::new(house);
        let answer = browser.sign_in(ADMIN_TOKEN).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/"), "{answer:?}");
        browser
    }

    pub(super) async fn send(&mut self, method: Method, path: &str, form: &str) -> Answer {
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let headers = [
            ("cookie", cookies.as_str()),
            ("accept-language", self.language),
            ("content-type", "application/x-www-form-urlencoded"),
        ];
        let body = Bytes::from(form.to_owned());
        let answer = call(&self.house.admin, method, path, &headers, body).await;
        for line in answer.headers.get_all("set-cookie") {
            let line = line.to_str().unwrap();
            assert!(line.contains("HttpOnly") && line.contains("SameSite=Strict"), "{line}");
            let (name, value) = line.split(';').next().unwrap().split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        answer
    }

    pub(super) async fn get(&mut self, path: &str) -> Answer {
        self.send(Method::GET, path, "").await
    }

    pub(super) async fn page(&mut self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {answer:?}");
        text(&answer)
    }

    /// Sends a form with the token that the page at `from` gives it.
    pub(super) async fn submit(&mut self, from: &str, to: &str, fields: &[(&str, &str)]) -> Answer {
        let csrf = field(&self.page(from).await, "csrf");
        let mut all = vec![("csrf", csrf.as_str())];
        all.extend_from_slice(fields);
        self.send(Method::POST, to, &form(&all)).await
    }

    pub(super) async fn sign_in(&mut self, token: &str) -> Answer {
        self.submit("/login", "/login", &[("token", token)]).await
    }
}

pub(super) fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

pub(super) fn form(fields: &[(&str, &str)]) -> String {
    let encoded = |text: &str| {
        text.bytes().fold(String::new(), |mut all, byte| {
            write!(all, "%{byte:02X}").unwrap();
            all
        })
    };
    let pairs: Vec<_> = fields.iter().map(|(name, value)| (name, *name == "csrf", value)).collect();
    let pairs = pairs.iter().map(|(name, plain, value)| {
        format!("{name}={}", if *plain { (**value).to_owned() } else { encoded(value) })
    });
    pairs.collect::<Vec<_>>().join("&")
}

/// The value of the first field of that name.
pub(super) fn field(page: &str, name: &str) -> String {
    let at = page.split(&format!("name=\"{name}\" value=\"")).nth(1);
    let at = at.unwrap_or_else(|| panic!("no field {name} in {page}"));
    at.split('"').next().unwrap().to_owned()
}

/// What a reader sees: the text outside of tags.
pub(super) fn seen(page: &str) -> Vec<String> {
    let pieces = page.split('<').filter_map(|piece| piece.split_once('>'));
    pieces.map(|(_, text)| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}
