//! Which paths are served, and how.

use proptest::prelude::*;

use super::*;

fn get(path: &str) -> Option<Endpoint> {
    classify(&Method::GET, path)
}

#[test]
fn metered_paths_are_known_with_and_without_their_prefix() {
    for metered in OPERATIONS {
        let bare = metered.path.strip_prefix("/v1").unwrap();
        assert_eq!(classify(&Method::POST, metered.path), Some(Endpoint::Metered(metered)));
        assert_eq!(classify(&Method::POST, bare), Some(Endpoint::Metered(metered)));
        assert_eq!(canonical(metered.path), bare);
        assert_eq!(canonical(bare), bare);
    }
}

#[test]
fn reading_and_deleting_what_exists_is_free() {
    assert_eq!(get("/v1/models"), Some(Endpoint::Free("/v1/models")));
    assert_eq!(get("/models/ft:gpt-4o:acme::a1"), Some(Endpoint::Free("/v1/models/{}")));
    assert_eq!(get("/v1/responses/resp_1/input_items"), Some(Endpoint::Free("/v1/responses/{}/input_items")));
    assert_eq!(classify(&Method::DELETE, "/v1/files/file-1"), Some(Endpoint::Free("/v1/files/{}")));
    assert_eq!(classify(&Method::POST, "/v1/moderations"), Some(Endpoint::Free("/v1/moderations")));
    let counted = classify(&Method::POST, "/v1/responses/input_tokens");
    assert_eq!(counted, Some(Endpoint::Free("/v1/responses/input_tokens")));
}

#[test]
fn own_paths_answer_only_to_get() {
    for prefix in ["", "/v1"] {
        assert_eq!(get(&format!("{prefix}/spendguard/me")), Some(Endpoint::SelfService(SelfService::Me)));
        assert_eq!(
            get(&format!("{prefix}/dashboard/billing/usage")),
            Some(Endpoint::SelfService(SelfService::BillingUsage))
        );
        assert_eq!(
            get(&format!("{prefix}/spendguard/usage")),
            Some(Endpoint::SelfService(SelfService::Usage))
        );
        let subscription = format!("{prefix}/dashboard/billing/subscription");
        assert_eq!(get(&subscription), Some(Endpoint::SelfService(SelfService::BillingSubscription)));
        assert_eq!(classify(&Method::POST, &subscription), None);
        let grants = format!("{prefix}/dashboard/billing/credit_grants");
        assert_eq!(get(&grants), Some(Endpoint::SelfService(SelfService::BillingCreditGrants)));
    }
}

#[test]
fn what_has_no_price_is_refused() {
    for path in [
        "/v1/images/variations",
        "/v1/audio/voices",
        "/v1/realtime/sessions",
        "/v1/fine_tuning/jobs",
        "/v1/agents/sessions",
        "/v1/assistants",
        "/v1/threads/runs",
    ] {
        assert_eq!(classify(&Method::POST, path), None, "{path}");
    }
    for path in
        ["/v1/organization/costs", "/v1/projects", "/v1/realtime", "/v1/live/sessions", "/v1/responses"]
    {
        assert_eq!(get(path), None, "{path}");
    }
    for method in [Method::HEAD, Method::OPTIONS, Method::PUT, Method::PATCH] {
        assert_eq!(classify(&method, "/v1/models"), None, "{method}");
    }
}

#[test]
fn secrets_of_realtime_sessions_are_made_here() {
    for path in ["/v1/realtime/client_secrets", "/realtime/client_secrets"] {
        assert_eq!(classify(&Method::POST, path), Some(Endpoint::ClientSecret));
        assert_eq!(get(path), None);
    }
    assert_eq!(socket("/v1/realtime").map(|(of, _)| of.path), Some("/v1/realtime"));
    assert_eq!(socket("/v1/realtime/translations").map(|(of, _)| of.path), Some("/v1/realtime/translations"));
    assert_eq!(socket("/v1/realtime/transcriptions"), None);
}

#[test]
fn files_and_batches_are_known() {
    let posted = |path: &str| classify(&Method::POST, path);
    assert_eq!(posted("/files"), Some(Endpoint::Upload(Upload::File)));
    assert_eq!(posted("/v1/uploads/upload_1/parts"), Some(Endpoint::Upload(Upload::Part)));
    assert_eq!(posted("/v1/containers/cntr_1/files"), Some(Endpoint::Upload(Upload::ContainerFile)));
    assert_eq!(posted("/v1/batches"), Some(Endpoint::Batch));
    assert_eq!(posted("/v1/uploads//parts"), None);
    assert_eq!(get("/v1/uploads/upload_1/parts"), None);
}

#[test]
fn what_costs_nothing_by_nature_is_free() {
    for path in [
        "/v1/conversations",
        "/v1/conversations/{}",
        "/v1/conversations/{}/items",
        "/v1/chat/completions/{}",
        "/v1/responses/{}/cancel",
        "/v1/batches/{}/cancel",
        "/v1/uploads",
        "/v1/uploads/{}/complete",
        "/v1/uploads/{}/cancel",
        "/v1/vector_stores/{}",
        "/v1/skills",
    ] {
        assert_eq!(classify(&Method::POST, &path.replace("{}", "x_1")), Some(Endpoint::Free(path)));
    }
    assert_eq!(get("/"), Some(Endpoint::SelfService(SelfService::Root)));
}

#[test]
fn what_is_billed_by_time_or_by_the_call_is_known() {
    for (path, hosted) in [
        ("/v1/containers", Hosted::NewContainer),
        ("/v1/vector_stores", Hosted::NewStore),
        ("/v1/vector_stores/{}/files", Hosted::AddFiles),
        ("/v1/vector_stores/{}/file_batches", Hosted::AddFiles),
        ("/v1/vector_stores/{}/search", Hosted::Search),
    ] {
        let found = classify(&Method::POST, &path.replace("{}", "vs_1"));
        assert_eq!(found, Some(Endpoint::Hosted(hosted, path)));
    }
}

#[test]
fn tricks_with_the_path_are_refused() {
    for path in [
        "",
        "/v1",
        "/v1/",
        "v1/models",
        "/v1//models",
        "//v1/models",
        "/v1/models/",
        "/v1/v1/models",
        "/V1/models",
        "/v1/%6dodels",
        "/v1/models/..",
        "/v1/models/.",
        "/v1/models/../organization",
        "/v1/models/a%2f..",
        "/v1/models/a;b",
        "/v1/models/a?b",
        "/v1/models/a b",
        "/v1/files/f/content/",
        "http://host/v1/models",
    ] {
        assert_eq!(get(path), None, "{path}");
        assert_eq!(classify(&Method::POST, path), None, "{path}");
    }
}

proptest! {
    #[test]
    fn only_ids_and_known_words_pass(path in "(/v1)?(/[a-z._%:-]{0,6}){0,5}") {
        if path != "/" && get(&path).is_some() {
            let segments: Vec<_> = path.split('/').skip(1).collect();
            prop_assert!(segments.iter().all(|segment| is_id(segment)), "{}", path);
        }
    }
}
