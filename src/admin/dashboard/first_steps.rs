//! The first steps with a new guard, on Overview until each is done or put aside.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use axum::Extension;
use axum::extract::{Form, State};
use maud::{Markup, html};
use serde::Deserialize;

use crate::admin::dashboard::page::{PageRequest, PageResult};
use crate::admin::dashboard::words::Words;
use crate::admin::dashboard::{Dashboard, parts, see_other};
use crate::admin::limits::everything;

/// One step; a new one is a row in [`STEPS`].
struct Step {
    /// Under which name it is put aside.
    name: &'static str,
    title: fn(&Words) -> &'static str,
    how: fn(&Words) -> &'static str,
    /// The page where it is done, unless it is done elsewhere.
    path: Option<&'static str>,
    is_done: fn(&Dashboard) -> bool,
}

const STEPS: &[Step] = &[
    Step {
        name: "name",
        title: |words| words.step_name,
        how: |words| words.organization_hint,
        path: Some("/settings"),
        is_done: |dashboard| dashboard.admin.directory.organization_named_by().is_some(),
    },
    Step {
        name: "key",
        title: |words| words.step_key,
        how: |words| words.create_key_lead,
        path: Some("/keys/new"),
        is_done: |dashboard| dashboard.admin.guard.ring().any(|_| true),
    },
    Step {
        name: "limits",
        title: |words| words.step_limits,
        how: |words| words.no_limits_how,
        path: Some("/limits/new"),
        is_done: |dashboard| !everything(&dashboard.admin).is_empty(),
    },
    Step {
        name: "call",
        title: |words| words.step_call,
        how: |words| words.step_call_how,
        path: None,
        is_done: |dashboard| {
            dashboard.admin.guard.ring().any(|key| key.last_used_ms.load(Ordering::Relaxed) > 0)
        },
    },
    Step {
        name: "credit",
        title: |words| words.add_credit,
        how: |words| words.add_credit_lead,
        path: Some("/billing/add"),
        is_done: |dashboard| dashboard.admin.rulebook.credit_balance().is_some(),
    },
];

/// The open steps, for operators who may change something.
pub(super) fn card(dashboard: &Dashboard, request: &PageRequest) -> Markup {
    let words = request.words();
    let aside = dashboard.admin.directory.first_steps_aside();
    let is_open = |step: &Step| !aside.contains(step.name) && !(step.is_done)(dashboard);
    if !request.may_change || !STEPS.iter().any(is_open) {
        return html! {};
    }
    html! {
        section.card.first aria-labelledby="first-steps" {
            div.heading.small {
                div {
                    h2 #first-steps { (words.first_steps) }
                    p.muted { (words.first_steps_lead) }
                }
                (put_aside(request, "all", words.hide_steps))
            }
            ol.steps {
                @for step in STEPS { (line(dashboard, request, step, &aside)) }
            }
        }
    }
}

fn line(dashboard: &Dashboard, request: &PageRequest, step: &Step, aside: &BTreeSet<String>) -> Markup {
    let words = request.words();
    let (title, is_done) = ((step.title)(words), (step.is_done)(dashboard));
    let is_open = !is_done && !aside.contains(step.name);
    html! {
        li.open[is_open] {
            div {
                p.title {
                    @match step.path.filter(|_| is_open) {
                        Some(path) => a href=(path) { (title) },
                        None => (title),
                    }
                    @if is_done { " " (parts::badge("green", words.done)) }
                }
                @if is_open {
                    p.muted { ((step.how)(words)) }
                    @if step.path.is_none() { (environment(dashboard, request)) }
                }
            }
            @if is_open { (put_aside(request, step.name, words.skip_step)) }
        }
    }
}

/// The environment that a program needs.
fn environment(dashboard: &Dashboard, request: &PageRequest) -> Markup {
    let words = request.words();
    html! {
        div.copy {
            pre #environment lang="en" tabindex="0" {
                "export OPENAI_BASE_URL=" (dashboard.admin.proxy_url) "\n" "export OPENAI_API_KEY=sk-guard-…"
            }
            button.button.small type="button" data-copy="environment" data-done=(words.copied) hidden { (words.copy) }
        }
        p.hint role="status" data-status {}
    }
}

fn put_aside(request: &PageRequest, step: &str, text: &str) -> Markup {
    html! {
        form method="post" action="/first-steps" {
            (request.csrf_field())
            input type="hidden" name="step" value=(step);
            button.button.small.quiet type="submit" { (text) }
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct StepForm {
    step: String,
}

pub(super) async fn skip(
    State(dashboard): State<Dashboard>,
    Extension(request): Extension<PageRequest>,
    Form(StepForm { step }): Form<StepForm>,
) -> PageResult {
    let steps: Vec<&str> =
        STEPS.iter().map(|known| known.name).filter(|name| step == "all" || *name == step).collect();
    if steps.is_empty() {
        return Err(request.not_found());
    }
    let done = dashboard.admin.directory.put_first_steps_aside(&steps, &request.actor).await;
    done.map_err(|error| request.unavailable(&error))?;
    Ok(see_other("/"))
}
