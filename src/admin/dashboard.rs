//! The dashboard: the operators' pages in a browser.
//!
//! The server renders every page in the reader's language, and every page can
//! be read without scripts. The content security policy allows nothing from
//! another origin and nothing inline. A new page is a row in [`PAGES`]; the
//! session and the check of its forms come with that.

mod activity;
mod assets;
mod audit;
mod billing;
mod chart;
mod figures;
mod first_steps;
mod keys;
mod language;
mod limit_form;
mod limit_trial;
mod limits;
mod login;
mod names;
mod overview;
mod page;
mod parts;
mod projects;
mod refusals;
mod session;
mod settings;
mod sockets;
mod sort;
mod stops;
mod usage;
mod words;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use crate::admin::{Admin, BODY_BYTES_MAX, Visitor, made_whole};
use crate::store::StoreError;

use language::Lang;
use page::PageRequest;
use session::{OpenSession, Sessions, same};
use words::Words;

/// One page of the dashboard.
struct Page {
    /// Its path; its other routes are below it.
    path: &'static str,
    /// Its title in the navigation.
    name: fn(&Words) -> &'static str,
    /// The outline of its icon, 24 units wide and high.
    icon: &'static str,
    /// All of its routes.
    routes: fn() -> Router<Dashboard>,
}

/// Every page, in the order of the navigation: the one place that lists them.
const PAGES: &[Page] = &[
    Page {
        path: "/",
        name: |words| words.overview,
        icon: "M4 13h6V4H4zm10 7h6V4h-6zM4 20h6v-3H4z",
        routes: overview::routes,
    },
    Page {
        path: "/keys",
        name: |words| words.api_keys,
        icon: "M14.5 9.5a4.5 4.5 0 1 0-4 4.47L12 15.5h2V18h2.500V20.500H20V17l-5.900-5.900a4.500 4.500 0 0 0 .4-1.600zM9 8.500h.01",
        routes: keys::routes,
    },
    Page {
        path: "/projects",
        name: |words| words.projects,
        icon: "M3.500 6.500a2 2 0 0 1 2-2h4l2 2.500h7a2 2 0 0 1 2 2v8.500a2 2 0 0 1-2 2h-13a2 2 0 0 1-2-2z",
        routes: projects::routes,
    },
    Page {
        path: "/usage",
        name: |words| words.usage,
        icon: "M4 20V10m5.300 10V4m5.400 16v-7M20 20V7",
        routes: usage::routes,
    },
    Page {
        path: "/limits",
        name: |words| words.limits,
        icon: "M12 3 4.500 6v5.500c0 4.500 3 7.800 7.500 9.500 4.500-1.700 7.500-5 7.500-9.500V6zM9 12l2.200 2.200L15.500 10",
        routes: || limits::routes().merge(limit_form::routes()).merge(stops::routes()),
    },
    Page {
        path: "/billing",
        name: |words| words.billing,
        icon: "M3.500 7a2 2 0 0 1 2-2h13a2 2 0 0 1 2 2v10a2 2 0 0 1-2 2h-13a2 2 0 0 1-2-2zM3.500 10h17M7 15h3",
        routes: billing::routes,
    },
    Page {
        path: "/activity",
        name: |words| words.activity,
        icon: "M3 12h4l3-8 4 16 3-8h4",
        routes: || activity::routes().merge(sockets::routes()).merge(audit::routes()),
    },
    Page {
        path: "/settings",
        name: |words| words.settings,
        icon: "M4 7h9m5 0h2M4 17h2m5 0h9M15.500 4.500v5M8.500 14.500v5",
        routes: settings::routes,
    },
];

/// The state that every page works on.
#[derive(Clone, Debug)]
struct Dashboard {
    admin: Admin,
    sessions: Arc<Sessions>,
}

/// The one form that a read-only admin key may send.
const SIGN_OUT: &str = "/logout";

impl Dashboard {
    /// Finds the session and its admin key. A session ends with the admin key that opened it.
    async fn visitor(&self, headers: &HeaderMap) -> Result<Option<(OpenSession, Visitor)>, StoreError> {
        let now_ms = self.admin.guard.clock().now_ms();
        let found = session::presented(headers).and_then(|value| self.sessions.find(&value, now_ms));
        let Some(session) = found else { return Ok(None) };
        let visitor = self.admin.visitor_with(&session.token).await?;
        Ok(visitor.map(|visitor| (session, visitor)))
    }
}

const CSP: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                   connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// All routes of the dashboard.
pub(super) fn router(admin: Admin) -> Router<Admin> {
    let dashboard = Dashboard { admin, sessions: Arc::default() };
    let pages = PAGES.iter().fold(Router::new(), |router, page| router.merge((page.routes)()));
    pages
        .route(SIGN_OUT, post(login::sign_out))
        .layer(from_fn_with_state(dashboard.clone(), require_session))
        .route("/login", get(login::form).post(login::sign_in))
        .route("/language/{code}", get(login::choose_language))
        .layer(from_fn(harden_all))
        .merge(assets::routes())
        .with_state(dashboard)
}

/// Requires a session, and for a change the token that the form was given.
async fn require_session(State(dashboard): State<Dashboard>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let path = request.uri().path().to_owned();
    let lang = Lang::of(headers);
    let (session, visitor) = match dashboard.visitor(headers).await {
        Ok(Some(found)) => found,
        Ok(None) => return login::redirect(&path),
        Err(error) => return login::unavailable(lang, &error),
    };
    dashboard.admin.note_use(&visitor).await;
    let (organization, may_change) = (dashboard.admin.directory.organization(), visitor.may_change());
    let OpenSession { id: session, csrf, .. } = session;
    let page = PageRequest { lang, session, csrf, path, actor: visitor.actor(), may_change, organization };
    if request.method().is_safe() {
        let mut request = request;
        request.extensions_mut().insert(page);
        return next.run(request).await;
    }
    // The form is read here, so that no page can forget to check it.
    let (head, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, BODY_BYTES_MAX).await else {
        return page.error_page(StatusCode::PAYLOAD_TOO_LARGE, lang.words().form_too_large);
    };
    if !session::form_field(&body, "csrf").is_some_and(|given| same(given, page.csrf.as_bytes())) {
        return page.error_page(StatusCode::FORBIDDEN, lang.words().form_stale);
    }
    if !page.may_change && page.path != SIGN_OUT {
        return page.error_page(StatusCode::FORBIDDEN, lang.words().read_only);
    }
    let mut request = Request::from_parts(head, Body::from(body));
    request.extensions_mut().insert(page);
    made_whole(&dashboard.admin, request, next).await
}

/// Sets the security headers of every answer, which no cache may store.
async fn harden_all(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    harden(response.headers_mut(), "no-store");
    response
}

/// Sets the security headers of an answer, and how caches may store it.
fn harden(headers: &mut HeaderMap, cache: &'static str) {
    let set: [(HeaderName, &'static str); 5] = [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, cache),
    ];
    for (name, value) in set {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Sends the browser to another page, by GET.
fn see_other(location: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}
