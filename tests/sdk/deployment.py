"""What is in deploy/ fits together: dashboards are sound, and compose.yml, Prometheus and Grafana name the same things."""

import json
import re

import yaml
from compose_spec import PyCompose
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from harness import ROOT, count_failures, end

DEPLOY = ROOT / "deploy"
BOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Grafana knows them; its published types don't.
UNTYPED = re.compile(r"\.templating\.list\[\d+\]\.definition|\.annotations\.list\[\d+\]\.(step|titleFormat|textFormat|tagKeys)")


def read(path):
    return yaml.safe_load((DEPLOY / path).read_text())


def board_of(path):
    return json.loads(path.read_text())


def lost(before, after, at=""):
    """What Grafana's own types did not take over."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            yield from lost(value, after[name], f"{at}.{name}") if name in after else [f"{at}.{name}"]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{at}[{index}]")
    elif before != after:
        yield f"{at}: {before!r} became {after!r}"


def boards_are_of_grafanas_types():
    register_default_plugins()
    for path in BOARDS:
        board = board_of(path)
        back = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
        strange = [name for name in lost(board, back) if not UNTYPED.fullmatch(name)]
        assert not strange, f"{path.name}: {strange}"


def boards_are_written_in_one_way():
    for path in BOARDS:
        text = path.read_text()
        assert text == json.dumps(json.loads(text), indent=2, ensure_ascii=False) + "\n", f"{path.name}: not as json.dumps(indent=2) has it"
        assert "__inputs" not in text and "DS_" not in text, f"{path.name}: left over from an export"


def boards_have_names_of_their_own_and_lead_to_each_other():
    boards = [board_of(path) for path in BOARDS]
    assert [path.stem for path in BOARDS] == ["health", "limits", "spend", "traffic"]
    for path, board in zip(BOARDS, boards):
        assert board["uid"] == f"spendguard-{path.stem}"
        assert board["title"] == f"spendguard: {path.stem}" and board["description"].endswith(".")
        links = [link for link in board["links"] if link["type"] == "dashboards"]
        assert [link["tags"] for link in links] == [board["tags"]] == [["spendguard"]]
        assert all(link["includeVars"] and link["keepTime"] for link in links)
        assert board["templating"]["list"][0]["type"] == "datasource"
        linked = set(re.findall(r"/d/([\w-]+)", json.dumps(board)))
        assert linked <= {other["uid"] for other in boards}, linked


def panels_are_described_and_have_units():
    for path in BOARDS:
        panels = board_of(path)["panels"]
        ids = [panel["id"] for panel in panels]
        assert len(set(ids)) == len(ids), f"{path.name}: panel ids {ids}"
        titles = [panel["title"] for panel in panels]
        assert len(set(titles)) == len(titles) and all(titles), f"{path.name}: {titles}"
        for panel in (panel for panel in panels if panel["type"] != "row"):
            where = f"{path.name}: {panel['title']}"
            defaults = panel["fieldConfig"]["defaults"]
            assert re.fullmatch(r"[A-Z].{20,}\.", panel["description"], re.DOTALL), f"{where}: no sentence that describes it"
            assert defaults["unit"] and defaults["noValue"], f"{where}: no unit, or nothing said when it is empty"
            assert panel["datasource"] == DATASOURCE, where
            assert all(target["datasource"] == DATASOURCE for target in panel["targets"]), where
            letters = [target["refId"] for target in panel["targets"]]
            assert len(set(letters)) == len(letters), where
            assert panel["type"] == "table" or all(target["legendFormat"] for target in panel["targets"]), where


def panels_do_not_overlap():
    for path in BOARDS:
        taken = {}
        for panel in board_of(path)["panels"]:
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24, f"{path.name}: {panel['title']} is too wide"
            for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
                assert cell not in taken, f"{path.name}: {panel['title']} lies on {taken[cell]}"
                taken[cell] = panel["title"]


def queries_use_the_boards_own_variables():
    for path in BOARDS:
        board = board_of(path)
        names = {variable["name"] for variable in board["templating"]["list"]}
        known = names | {"__range", "__interval", "__rate_interval"}
        text = " ".join(target["expr"] for panel in board["panels"] for target in panel.get("targets", ()))
        used = set(re.findall(r"\$\{?([a-zA-Z_]\w*)", text))
        assert used <= known, f"{path.name}: {used - known}"
        asked = [variable for variable in board["templating"]["list"] if variable["type"] == "query"]
        assert all(variable["definition"] == variable["query"]["query"] for variable in asked), path.name
        assert names - {"datasource"} <= used, f"{path.name}: chosen and not used: {names - used}"


def compose_is_sound_and_pinned():
    text = (DEPLOY / "compose.yml").read_text()
    services = PyCompose.from_yaml(text).to_dict()["services"]
    assert set(services) == {"guard", "prometheus", "grafana"}
    for name, service in services.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"]), service["image"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), f"{name} is open to the world"
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert services["guard"]["image"] == f"spendguard:{version}"
    assert (DEPLOY / services["guard"]["build"]["context"]).resolve() == ROOT
    assert (ROOT / services["guard"]["build"]["dockerfile"]).is_file()
    assert not set(services["grafana"]["networks"]) & set(services["guard"]["networks"]), "Grafana can reach the guard"
    types = {board["pluginVersion"] for path in BOARDS for board in board_of(path)["panels"] if board["type"] != "row"}
    assert types == {services["grafana"]["image"].split(":")[1]}


def mounts(service):
    pairs = [volume.split(":")[:2] for volume in read("compose.yml")["services"][service]["volumes"]]
    return {inside: DEPLOY / outside for outside, inside in pairs if outside.startswith(".")}


def what_is_mounted_is_there():
    for service in ("prometheus", "grafana"):
        for inside, outside in mounts(service).items():
            assert outside.is_dir(), outside
    prometheus = mounts("prometheus")["/etc/prometheus"]
    command = read("compose.yml")["services"]["prometheus"]["command"]
    assert "--config.file=/etc/prometheus/prometheus.yml" in command
    for rules in read("prometheus/prometheus.yml")["rule_files"]:
        assert (prometheus / rules).is_file(), rules


def grafana_finds_its_boards_and_prometheus():
    compose = read("compose.yml")
    dashboards = mounts("grafana")
    environment = compose["services"]["grafana"]["environment"]
    provider = read("grafana/provisioning/dashboards/spendguard.yml")["providers"][0]
    assert sorted(dashboards[provider["options"]["path"]].glob("*.json")) == [path.parent / "." / path.name for path in BOARDS]
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"]) and (DEPLOY / "grafana" / home.rsplit("/", 1)[1]).is_file()
    source = read("grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert source["type"] == "prometheus" and source["isDefault"] and source["url"] == "http://prometheus:9090"
    assert compose["services"]["prometheus"]["ports"] == ["127.0.0.1:9090:9090"]
    scraped = read("prometheus/prometheus.yml")
    assert source["jsonData"]["timeInterval"] == scraped["global"]["scrape_interval"]


def prometheus_finds_the_guard_and_has_a_token():
    compose = read("compose.yml")
    job = read("prometheus/prometheus.yml")["scrape_configs"][0]
    assert job["job_name"] == read("prometheus/scrape.yml")["scrape_configs"][0]["job_name"] == "spendguard"
    name, port = job["static_configs"][0]["targets"][0].split(":")
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert name in compose["services"] and f"SPENDGUARD_ADMIN__LISTEN=0.0.0.0:{port}" in dockerfile
    assert port in re.search(r"^EXPOSE (.+)$", dockerfile, re.MULTILINE)[1].split()
    assert set(compose["services"]["prometheus"]["networks"]) >= set(compose["services"][name]["networks"])
    held = {f"/run/secrets/{secret}" for secret in compose["services"]["prometheus"]["secrets"]}
    assert job["authorization"]["credentials_file"] in held


def every_secret_is_asked_for_in_the_example():
    text = (DEPLOY / "compose.yml").read_text()
    wanted = set(re.findall(r"\$\{(\w+)", text)) | {secret["environment"] for secret in read("compose.yml")["secrets"].values()}
    given = set(re.findall(r"^(\w+)=$", (DEPLOY / "env.example").read_text(), re.MULTILINE))
    assert wanted == given, wanted ^ given
    for service in read("compose.yml")["services"].values():
        # Compose copies such secrets in, which it can't where nothing may be written.
        assert not (service.get("secrets") and service.get("read_only"))


def main():
    tests = [
        boards_are_of_grafanas_types,
        boards_are_written_in_one_way,
        boards_have_names_of_their_own_and_lead_to_each_other,
        panels_are_described_and_have_units,
        panels_do_not_overlap,
        queries_use_the_boards_own_variables,
        compose_is_sound_and_pinned,
        what_is_mounted_is_there,
        grafana_finds_its_boards_and_prometheus,
        prometheus_finds_the_guard_and_has_a_token,
        every_secret_is_asked_for_in_the_example,
    ]
    end("deployment", tests, count_failures(tests))


if __name__ == "__main__":
    main()
