//! The frame around every page, and the request that it answers.

use std::sync::Arc;

use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::admin::dashboard::language::Lang;
use crate::admin::dashboard::words::Words;
use crate::admin::dashboard::{PAGES, SIGN_OUT, assets, figures, names};
use crate::guard::audit::Actor;
use crate::keys::KeyHash;
use crate::store::StoreError;

/// The query of a page's address. One that can't be read counts as empty.
pub(super) type PageQuery<T> = Result<Query<T>, QueryRejection>;

pub(super) fn query_or_default<T: Default>(query: PageQuery<T>) -> T {
    query.map(|Query(query)| query).unwrap_or_default()
}

/// A request for a page by an operator who is signed in.
#[derive(Clone, Debug)]
pub(super) struct PageRequest {
    pub(super) lang: Lang,
    /// The hash of the session's cookie.
    pub(super) session: KeyHash,
    /// The token that each form carries, so that no other site can send one.
    pub(super) csrf: Arc<str>,
    /// The path of the page.
    pub(super) path: String,
    /// The operator that changes are recorded for.
    pub(super) actor: Actor,
    /// Whether this operator may change anything.
    pub(super) may_change: bool,
    /// The organization's name.
    pub(super) organization: Arc<str>,
}

/// An answer in place of the page: an error, or a redirect.
#[derive(Debug)]
pub(super) struct ErrorPage(Box<Response>);

impl IntoResponse for ErrorPage {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl From<Response> for ErrorPage {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

/// The result of a page's handler.
pub(super) type PageResult = Result<Response, ErrorPage>;

impl PageRequest {
    pub(super) const fn words(&self) -> &'static Words {
        self.lang.words()
    }

    /// A page of the dashboard, with its heading.
    pub(super) fn page(&self, title: &str, body: &Markup) -> Response {
        self.with_status(StatusCode::OK, title, body)
    }

    pub(super) fn with_status(&self, status: StatusCode, title: &str, body: &Markup) -> Response {
        (status, self.frame(title, body)).into_response()
    }

    /// The hidden field that proves that a form is one of these pages.
    pub(super) fn csrf_field(&self) -> Markup {
        html! { input type="hidden" name="csrf" value=(self.csrf); }
    }

    /// A page that says why the request was not carried out.
    pub(super) fn error_page(&self, status: StatusCode, why: &str) -> Response {
        let body = html! {
            h1 { (self.words().not_done) }
            p.notice.bad role="alert" { (why) }
            p { a.button href="/" { (self.words().overview) } }
        };
        self.with_status(status, self.words().not_done, &body)
    }

    pub(super) fn not_found(&self) -> ErrorPage {
        self.error_page(StatusCode::NOT_FOUND, self.words().no_such_thing).into()
    }

    /// The page for a database that can't be read or written, or for an admin key that is no more.
    pub(super) fn unavailable(&self, error: &StoreError) -> ErrorPage {
        if matches!(error, StoreError::ActorGone) {
            return self.error_page(StatusCode::UNAUTHORIZED, self.words().wrong_token).into();
        }
        note_unavailable(error);
        self.error_page(StatusCode::SERVICE_UNAVAILABLE, self.words().ledger_unavailable).into()
    }

    fn frame(&self, title: &str, body: &Markup) -> Html<String> {
        let words = self.words();
        let section = PAGES.iter().rev().find(|page| self.path.starts_with(page.path)).map(|page| page.path);
        document(
            self.lang,
            title,
            &html! {
                a.skip href="#main" { (words.skip) }
                header.side {
                    a.brand href="/" { (mark()) "spendguard" }
                    p.organization { (names::name(&self.organization)) }
                    nav aria-label=(words.navigation) {
                        ul {
                            @for page in PAGES {
                                li {
                                    a href=(page.path) aria-current=[(section == Some(page.path)).then_some("page")] {
                                        (outline(page.icon)) span { ((page.name)(words)) }
                                    }
                                }
                            }
                        }
                    }
                    div.foot {
                        (languages(self.lang, section.unwrap_or("/")))
                        form method="post" action=(SIGN_OUT) {
                            (self.csrf_field())
                            button.button.quiet type="submit" { (words.sign_out) }
                        }
                    }
                }
                main #main tabindex="-1" { (body) }
            },
        )
    }
}

/// Logs that the database could not be used for a page.
pub(super) fn note_unavailable(error: &StoreError) {
    tracing::error!(
        event = "dashboard_database_failed", %error,
        "the dashboard could not use the database"
    );
}

/// A page for a browser that is not signed in.
pub(super) fn signed_out(lang: Lang, title: &str, path: &str, body: &Markup) -> Html<String> {
    document(lang, title, &html! { main #main { (body) (languages(lang, path)) } })
}

fn document(lang: Lang, title: &str, body: &Markup) -> Html<String> {
    let version = assets::VERSION.as_str();
    let page = html! {
        (DOCTYPE)
        html lang=(lang.code()) data-months=(lang.words().months) data-day=(figures::day_form(lang)) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · spendguard" }
                link rel="stylesheet" href={ "/assets/style.css?v=" (version) };
                link rel="icon" type="image/svg+xml" href={ "/assets/icon.svg?v=" (version) };
                script src={ "/assets/script.js?v=" (version) } defer {}
            }
            body { (body) }
        }
    };
    Html(page.into_string())
}

/// The choice of a language, each by its own name.
pub(super) fn languages(lang: Lang, path: &str) -> Markup {
    html! {
        nav.languages aria-label=(lang.words().language) {
            @for other in Lang::ALL {
                a href={ "/language/" (other.code()) "?next=" (path) } lang=(other.code()) hreflang=(other.code())
                    aria-current=[(other == lang).then_some("true")] { (other.own_name()) }
            }
        }
    }
}

fn outline(path: &str) -> Markup {
    html! {
        svg.icon viewBox="0 0 24 24" width="20" height="20" aria-hidden="true" fill="none"
            stroke="currentColor" stroke-width="1.700" stroke-linecap="round" stroke-linejoin="round" {
            path d=(path) {}
        }
    }
}

/// The product's mark.
pub(super) fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 24 24" width="26" height="26" aria-hidden="true" {
            path.shield d="M12 1.500 3 5v6.500c0 5.400 3.700 9.300 9 11 5.300-1.700 9-5.600 9-11V5z" {}
            path.check d="M7.500 12.200l3 3 6-6.400" fill="none" stroke-width="2.200" stroke-linecap="round"
                stroke-linejoin="round" {}
        }
    }
}
