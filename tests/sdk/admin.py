"""The official Python package's client.admin, unchanged, against the guard."""

import time

import openai

from harness import TOKEN, run

ASK = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
EMAIL = {"type": "email", "recipients": ["finance@example.com"], "subject_prefix": "[spend]"}
MONTH = {"currency": "USD", "interval": "month"}


def admin(house, token=TOKEN):
    """The package's organization, asked with an admin key."""
    return openai.OpenAI(base_url=house.admin + "/v1", admin_api_key=token, api_key="unused").admin.organization


def client(house, key):
    return openai.OpenAI(base_url=house.proxy + "/v1", api_key=key, max_retries=0)


def refused(kind, call):
    """The call raises exactly that exception, with an error the package can read."""
    try:
        call()
    except kind as error:
        assert type(error) is kind, type(error)
        assert error.code and error.body["message"], error.body
        return error
    raise AssertionError("nothing was raised")


def project_with_key(house, name):
    org = admin(house)
    project = org.projects.create(name=name)
    account = org.projects.service_accounts.create(project.id, name="bot")
    return project, account


def a_spend_limit_is_set_read_and_removed_and_refuses(house):
    org = admin(house)
    refused(openai.NotFoundError, org.spend_limit.retrieve)
    made = org.spend_limit.update(threshold_amount=10_000, **MONTH)
    assert (made.object, made.threshold_amount, made.enforcement.status) == ("organization.spend_limit", 10_000, "inactive")
    assert org.spend_limit.retrieve() == made
    assert org.spend_limit.delete().deleted
    project, account = project_with_key(house, "Bounded")
    # Less than what one request may cost, but more than nothing: a cent.
    limit = org.projects.spend_limit.update(project.id, threshold_amount=1, **MONTH)
    assert org.projects.spend_limit.retrieve(project.id) == limit
    dear = ASK | {"model": "o1-pro", "max_completion_tokens": 1_000}
    error = refused(openai.BadRequestError, lambda: client(house, account.api_key.value).chat.completions.create(**dear))
    assert error.code == "request_cost_exceeds_limit", error.body
    assert org.projects.spend_limit.delete(project.id).object == "project.spend_limit.deleted"
    refused(openai.BadRequestError, lambda: org.spend_limit.update(threshold_amount=0, **MONTH))


def spend_alerts_are_made_changed_listed_over_pages_and_removed(house):
    org = admin(house)
    made = [org.spend_alerts.create(threshold_amount=n, notification_channel=EMAIL, **MONTH) for n in (1, 2, 3)]
    assert made[0].notification_channel.to_dict() == EMAIL
    assert [alert.id for alert in org.spend_alerts.list(limit=2)] == [alert.id for alert in made], "all pages"
    changed = org.spend_alerts.update(made[0].id, threshold_amount=777, notification_channel=EMAIL, **MONTH)
    assert org.spend_alerts.retrieve(made[0].id) == changed and changed.threshold_amount == 777
    for alert in made:
        assert org.spend_alerts.delete(alert.id).deleted
    alert = org.projects.spend_alerts.create("small", threshold_amount=5, notification_channel=EMAIL, **MONTH)
    assert alert.object == "project.spend_alert"
    assert org.projects.spend_alerts.retrieve(alert.id, project_id="small") == alert
    org.projects.spend_alerts.update(
        alert.id, project_id="small", threshold_amount=6, notification_channel=EMAIL, **MONTH
    )
    assert [a.threshold_amount for a in org.projects.spend_alerts.list("small")] == [6]
    assert org.projects.spend_alerts.delete(alert.id, project_id="small").deleted


def projects_keys_and_service_accounts_are_objects_of_the_package(house):
    org = admin(house)
    project, account = project_with_key(house, "Chatbot")
    assert org.projects.retrieve(project.id).name == "Chatbot"
    assert org.projects.update(project.id, name="Chat").name == "Chat"
    assert project.id in [p.id for p in org.projects.list(limit=2)]
    assert client(house, account.api_key.value).chat.completions.create(**ASK).choices
    [key] = org.projects.api_keys.list(project.id)
    assert key.owner.type == "service_account" and key.owner.service_account.name == "bot"
    assert key.redacted_value.endswith(account.api_key.value[-4:]) and key.last_used_at
    assert org.projects.api_keys.retrieve(key.id, project_id=project.id) == key
    assert org.projects.api_keys.update(key.id, project_id=project.id, expires_in_seconds=90).expires_at
    second = org.projects.service_accounts.api_keys.create(account.id, project_id=project.id, name="two")
    assert org.projects.api_keys.delete(second.id, project_id=project.id).deleted
    assert org.projects.service_accounts.retrieve(account.id, project_id=project.id).role == "member"
    assert [a.id for a in org.projects.service_accounts.list(project.id)] == [account.id]
    assert org.projects.service_accounts.delete(account.id, project_id=project.id).deleted
    refused(openai.AuthenticationError, lambda: client(house, account.api_key.value).models.list())
    assert org.projects.archive(project.id).status == "archived"
    assert project.id in [p.id for p in org.projects.list(include_archived=True)]
    refused(openai.BadRequestError, lambda: org.projects.create(name="x", residency="EU_STORAGE_PROCESSING"))


def rate_limits_and_model_permissions_hold(house):
    org = admin(house)
    project, account = project_with_key(house, "Paced")
    ask = lambda: client(house, account.api_key.value).chat.completions.create(**ASK)
    rate = org.projects.rate_limits.update_rate_limit(
        "rl-gpt-4o-mini", project_id=project.id, max_requests_per_1_minute=1
    )
    assert [r.id for r in org.projects.rate_limits.list_rate_limits(project.id)] == [rate.id]
    ask()
    refused(openai.RateLimitError, ask)
    denied = org.projects.model_permissions.update(project.id, mode="deny_list", model_ids=["gpt-4o-mini"])
    assert org.projects.model_permissions.retrieve(project.id) == denied
    assert denied.api_model_ids == ["gpt-4o-mini"]
    refused(openai.PermissionDeniedError, ask)
    assert org.projects.model_permissions.delete(project.id).deleted


def admin_keys_open_the_api_and_a_read_only_one_changes_nothing(house):
    org = admin(house)
    made = org.admin_api_keys.create(name="ci", expires_in_seconds=600)
    assert made.value.startswith("sk-admin-") and made.expires_at
    assert admin(house, made.value).projects.list().data
    looking = org.admin_api_keys.create(name="auditor", extra_body={"role": "read_only"})
    auditor = admin(house, looking.value)
    assert auditor.projects.list().data
    refused(openai.PermissionDeniedError, lambda: auditor.projects.create(name="x"))
    listed = list(org.admin_api_keys.list(limit=1))
    assert [key.id for key in listed] == [made.id, looking.id], "all pages"
    assert not any(getattr(key, "value", None) for key in listed)
    assert org.admin_api_keys.retrieve(made.id).name == "ci"
    for key in (made, looking):
        assert org.admin_api_keys.delete(key.id).deleted
    refused(openai.AuthenticationError, lambda: admin(house, made.value).projects.list())


def usage_and_costs_are_those_of_the_ledger(house):
    org = admin(house)
    project, account = project_with_key(house, "Counted")
    api = client(house, account.api_key.value)
    answer = api.chat.completions.create(**ASK)
    api.embeddings.create(model="text-embedding-3-small", input="hello")
    midnight = int(time.time()) // 86_400 * 86_400
    of = {"start_time": midnight, "project_ids": [project.id]}
    page = org.usage.completions(**of, group_by=["project_id", "model"])
    [result] = page.data[0].results
    assert (result.project_id, result.num_model_requests) == (project.id, 1)
    assert result.input_tokens == answer.usage.prompt_tokens and result.output_tokens == answer.usage.completion_tokens
    assert result.object == "organization.usage.completions.result" and result.model
    [embedded] = org.usage.embeddings(**of, bucket_width="1h").data[-1].results
    assert embedded.num_model_requests == 1
    [cost] = org.usage.costs(**of).data[0].results
    entries = house.api("GET", f"/guard/v1/ledger?project_id={project.id}")["data"]
    assert abs(cost.amount.value - sum(float(entry["cost_usd"]) for entry in entries)) < 1e-12, cost
    items = org.usage.costs(**of, group_by=["line_item"]).data[0].results
    assert sorted(item.line_item for item in items) == ["gpt-4o-mini", "text-embedding-3-small"], items
    empty = [org.usage.images, org.usage.moderations, org.usage.audio_speeches, org.usage.audio_transcriptions,
             org.usage.vector_stores, org.usage.code_interpreter_sessions, org.usage.file_search_calls,
             org.usage.web_search_calls, org.usage.decisions]
    assert all(not bucket.results for ask in empty for bucket in ask(start_time=midnight).data)
    first = org.usage.costs(start_time=midnight - 5 * 86_400, limit=2)
    assert first.has_more and org.usage.costs(start_time=midnight - 5 * 86_400, limit=2, page=first.next_page).data
    [grouped] = org.usage.completions(**of, group_by=["user_id", "service_tier"]).data[0].results
    assert (grouped.user_id, grouped.service_tier) == (None, None) and grouped.num_model_requests > 0, grouped


def audit_logs_tell_of_all_that(house):
    org = admin(house)
    project = org.projects.create(name="Watched")
    org.projects.update(project.id, name="Seen")
    logs = org.audit_logs.list(project_ids=[project.id], effective_at={"gte": int(time.time()) - 60})
    assert [log.type for log in logs] == ["project.updated", "project.created"]
    assert logs.data[0].project_updated.changes_requested.to_dict() == {"name": "Seen"}
    assert logs.data[0].actor.api_key.id == "configured"
    kinds = ["project.created"]
    assert len(list(org.audit_logs.list(event_types=kinds, limit=1))) == len(list(org.audit_logs.list(event_types=kinds)))


def what_the_guard_has_not_is_an_error(house):
    org = admin(house)
    refused(openai.NotFoundError, lambda: org.users.list())
    refused(openai.NotFoundError, lambda: org.projects.retrieve("nobody"))
    refused(openai.AuthenticationError, lambda: admin(house, "sk-admin-wrong").projects.list())


def main():
    tests = [
        a_spend_limit_is_set_read_and_removed_and_refuses,
        spend_alerts_are_made_changed_listed_over_pages_and_removed,
        projects_keys_and_service_accounts_are_objects_of_the_package,
        rate_limits_and_model_permissions_hold,
        admin_keys_open_the_api_and_a_read_only_one_changes_nothing,
        usage_and_costs_are_those_of_the_ledger,
        audit_logs_tell_of_all_that,
        what_the_guard_has_not_is_an_error,
    ]
    run(f"openai {openai.__version__} for Python, client.admin", tests)


if __name__ == "__main__":
    main()
