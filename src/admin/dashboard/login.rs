//! Signing in with the admin token or an admin key, signing out, and choosing a language.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Form, FromRequest as _, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::language::{COOKIE, Lang};
use crate::admin::dashboard::page::{self, PageQuery, PageRequest, query_or_default};
use crate::admin::dashboard::session::{self, same, set_cookie};
use crate::admin::dashboard::{Dashboard, PAGES, see_other};
use crate::keys::{self, KeyHash};
use crate::store::StoreError;

/// A token longer than this is none of ours, and is not looked at.
const TOKEN_BYTES_MAX: usize = 4_096;
const LANGUAGE_LIFE_S: i64 = 365 * 24 * 3_600;
const FORM_LIFE_S: i64 = 3_600;

#[derive(Debug, Default, Deserialize)]
pub(super) struct ReturnTo {
    next: Option<String>,
}

/// Leads to the log-in, and from there back to the page.
pub(super) fn redirect(path: &str) -> Response {
    match known_page(Some(path)) {
        "/" => see_other("/login"),
        path => see_other(&format!("/login?next={path}")),
    }
}

/// The page for an operator whose admin key can't be checked, since the database can't be used.
pub(super) fn unavailable(lang: Lang, error: &StoreError) -> Response {
    page::note_unavailable(error);
    let words = lang.words();
    let body = html! {
        div.login { div.card { p.notice.bad role="alert" { (words.ledger_unavailable) } } }
    };
    let page = page::signed_out(lang, words.not_done, "/login", &body);
    (StatusCode::SERVICE_UNAVAILABLE, page).into_response()
}

/// The page of a path, or Overview: a link can't lead to another site.
fn known_page(path: Option<&str>) -> &'static str {
    PAGES.iter().map(|page| page.path).find(|page| Some(*page) == path).unwrap_or("/")
}

pub(super) async fn form(
    State(dashboard): State<Dashboard>,
    return_to: PageQuery<ReturnTo>,
    headers: HeaderMap,
) -> Response {
    let next = known_page(query_or_default(return_to).next.as_deref());
    if dashboard.visitor(&headers).await.is_ok_and(|visitor| visitor.is_some()) {
        return see_other(next);
    }
    answer(&dashboard, &headers, next, StatusCode::OK, None)
}

/// The log-in form, tied to the browser by a cookie beside a field.
fn answer(
    dashboard: &Dashboard,
    headers: &HeaderMap,
    next: &'static str,
    status: StatusCode,
    problem: Option<&str>,
) -> Response {
    let lang = Lang::of(headers);
    let Ok(tie) = keys::new_id("") else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let body = view(lang, &tie, next, problem);
    let mut response =
        (status, page::signed_out(lang, lang.words().sign_in, "/login", &body)).into_response();
    add_cookie(&mut response, set_cookie(session::FORM, &tie, FORM_LIFE_S, dashboard.admin.tls));
    response
}

fn view(lang: Lang, tie: &str, next: &str, problem: Option<&str>) -> Markup {
    let words = lang.words();
    html! {
        div.login {
            div.brand.large { (page::mark()) "spendguard" }
            form.card method="post" action="/login" {
                h1 { (words.sign_in) }
                p.muted { (words.sign_in_how) }
                @if let Some(problem) = problem {
                    p.notice.bad role="alert" id="problem" { (problem) }
                }
                input type="hidden" name="csrf" value=(tie);
                input type="hidden" name="next" value=(next);
                div.field {
                    label for="token" { (words.admin_token) }
                    input #token type="password" name="token" required autocomplete="current-password"
                        spellcheck="false" autofocus aria-describedby=[problem.map(|_| "problem")];
                    p.hint { (words.admin_token_where) " " code { "spendguard-data/admin-token" } }
                }
                button.button.primary.wide type="submit" { (words.sign_in) }
            }
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct SignIn {
    token: String,
    csrf: String,
    next: Option<String>,
}

pub(super) async fn sign_in(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let words = Lang::of(&headers).words();
    let sent = Form::<SignIn>::from_request(request, &()).await.map(|Form(sent)| sent).unwrap_or_default();
    let next = known_page(sent.next.as_deref());
    let again = |status, problem: &str| answer(&dashboard, &headers, next, status, Some(problem));
    let tied = session::cookie(&headers, session::FORM);
    if !tied.is_some_and(|tie| same(sent.csrf.as_bytes(), tie.as_bytes())) {
        return again(StatusCode::FORBIDDEN, words.form_stale);
    }
    let now_ms = dashboard.admin.guard.clock().now_ms();
    if let Some(seconds) = dashboard.sessions.barred_s(now_ms) {
        let text = words.too_many_attempts.replace("{n}", &seconds.to_string());
        let mut response = again(StatusCode::TOO_MANY_REQUESTS, &text);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        return response;
    }
    let token = sent.token.trim();
    let found = if token.len() > TOKEN_BYTES_MAX {
        Ok(None)
    } else {
        dashboard.admin.visitor_with_token(token).await
    };
    let is_visitor = match found {
        Ok(visitor) => visitor.is_some(),
        Err(error) => return unavailable(Lang::of(&headers), &error),
    };
    if !is_visitor {
        dashboard.sessions.failed(now_ms);
        tracing::warn!(event = "dashboard_wrong_token", "a sign-in to the dashboard had a wrong token");
        return again(StatusCode::UNAUTHORIZED, words.wrong_token);
    }
    let Ok(value) = dashboard.sessions.open(KeyHash::of(token.as_bytes()), now_ms) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let mut response = see_other(next);
    let secure = dashboard.admin.tls;
    add_cookie(&mut response, set_cookie(session::SESSION, &value, session::life_s(), secure));
    add_cookie(&mut response, set_cookie(session::FORM, "", 0, secure));
    response
}

pub(super) async fn sign_out(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    _: Bytes,
) -> Response {
    dashboard.sessions.close(&request.session);
    let mut response = see_other("/login");
    add_cookie(&mut response, set_cookie(session::SESSION, "", 0, dashboard.admin.tls));
    response
}

/// Chooses the language by a link: it changes nothing but this browser's pages.
pub(super) async fn choose_language(
    State(dashboard): State<Dashboard>,
    Path(code): Path<String>,
    return_to: PageQuery<ReturnTo>,
) -> Response {
    let back = query_or_default(return_to).next;
    let to_login = back.as_deref() == Some("/login");
    let mut response = see_other(if to_login { "/login" } else { known_page(back.as_deref()) });
    if let Some(lang) = Lang::named(&code) {
        add_cookie(&mut response, set_cookie(COOKIE, lang.code(), LANGUAGE_LIFE_S, dashboard.admin.tls));
    }
    response
}

fn add_cookie(response: &mut Response, line: Option<HeaderValue>) {
    if let Some(line) = line {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
}
