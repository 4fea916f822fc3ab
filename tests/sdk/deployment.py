"""What is in deploy/ fits together: dashboards are sound, and the files for Compose, Prometheus and Grafana name the same things."""

import json
import re
import tomllib

import yaml
from compose_spec import PyCompose
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from harness import ROOT, count_failures, end

DEPLOY = ROOT / "deploy"
# Each with the example of its variables.
COMPOSED = {"compose.yml": "env.example", "compose-cluster.yml": "env-cluster.example"}
BOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Grafana knows them; its published types don't.
UNTYPED = re.compile(r"\.templating\.list\[\d+\]\.definition|\.annotations\.list\[\d+\]\.(step|titleFormat|textFormat|tagKeys)")


def read(path):
    return yaml.safe_load((DEPLOY / path).read_text())


class Plain(yaml.SafeDumper):
    """Without anchors."""

    def ignore_aliases(self, _):
        return True


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


def composed_files_are_sound_and_pinned():
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    for path in COMPOSED:
        # With its merge keys resolved, which the package does not know.
        services = PyCompose.from_yaml(yaml.dump(read(path), Dumper=Plain)).to_dict()["services"]
        for name, service in services.items():
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?", service["image"]), service["image"]
            assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), f"{name} is open to the world"
            assert "no-new-privileges:true" in service["security_opt"] and service["restart"] == "unless-stopped", name
        for service in (services[name] for name in services if name.startswith("guard")):
            assert service["image"] == f"spendguard:{version}"
            assert (DEPLOY / service["build"]["context"]).resolve() == ROOT
            assert (ROOT / service["build"]["dockerfile"]).is_file()
            assert service["read_only"] and service["cap_drop"] == ["ALL"]


def grafana_shows_prometheus_and_has_no_way_to_the_guard():
    services = read("compose.yml")["services"]
    assert set(services) == {"guard", "prometheus", "grafana"}
    assert not set(services["grafana"]["networks"]) & set(services["guard"]["networks"]), "Grafana can reach the guard"
    types = {board["pluginVersion"] for path in BOARDS for board in board_of(path)["panels"] if board["type"] != "row"}
    assert types == {services["grafana"]["image"].split(":")[1]}


def guards_of_a_cluster_share_the_database_and_nothing_else():
    services = read("compose-cluster.yml")["services"]
    assert set(services) == {"guard-a", "guard-b", "nginx", "postgres"}
    guards = {name: service for name, service in services.items() if name.startswith("guard")}
    assert all(guard["hostname"] == name for name, guard in guards.items())
    assert len({guard["environment"]["DATABASE_URL"] for guard in guards.values()}) == 1
    for guard in guards.values():
        volumes = [volume.split(":") for volume in guard["volumes"]]
        assert all(outside.startswith("./") and mode == "ro" for outside, _, mode in volumes), "a disk"
        file = guard["command"][guard["command"].index("--config") + 1]
        outside = next(outside for outside, inside, _ in volumes if file.startswith(inside + "/"))
        config = tomllib.loads((DEPLOY / outside / file.rsplit("/", 1)[1]).read_text())
        assert config["storage"]["url"]["env"] in guard["environment"] and set(config["admin"]["hosts"]) == set(guards)
    conf = (DEPLOY / "nginx" / "spendguard.conf").read_text()
    ports = re.search(r"^EXPOSE (.+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)[1].split()
    assert set(re.findall(r"^\s*server ([\w-]+:\d+) resolve", conf, re.MULTILINE)) == {f"{name}:{port}" for name in guards for port in ports}
    assert not set(services["nginx"]["networks"]) & set(services["postgres"]["networks"]), "nginx can reach the database"
    assert read("compose-cluster.yml")["networks"]["stored"]["internal"] and services["postgres"]["networks"] == ["stored"]
    # nginx before 1.27.3 does not know `resolve`.
    assert tuple(map(int, services["nginx"]["image"].split(":")[1].split("."))) >= (1, 27, 3)


def mounts(service, path="compose.yml"):
    pairs = [volume.split(":")[:2] for volume in read(path)["services"][service].get("volumes", ())]
    return {inside: DEPLOY / outside for outside, inside in pairs if outside.startswith(".")}


def what_is_mounted_is_there():
    for path in COMPOSED:
        for service in read(path)["services"]:
            assert all(outside.exists() for outside in mounts(service, path).values()), (path, service)
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
    for path, example in COMPOSED.items():
        text, compose = (DEPLOY / path).read_text(), read(path)
        wanted = set(re.findall(r"\$\{(\w+)", text)) | {secret["environment"] for secret in compose.get("secrets", {}).values()}
        given = set(re.findall(r"^(\w+)=$", (DEPLOY / example).read_text(), re.MULTILINE))
        assert wanted == given, wanted ^ given
        for service in compose["services"].values():
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
        composed_files_are_sound_and_pinned,
        grafana_shows_prometheus_and_has_no_way_to_the_guard,
        guards_of_a_cluster_share_the_database_and_nothing_else,
        what_is_mounted_is_there,
        grafana_finds_its_boards_and_prometheus,
        prometheus_finds_the_guard_and_has_a_token,
        every_secret_is_asked_for_in_the_example,
    ]
    end("deployment", tests, count_failures(tests))


if __name__ == "__main__":
    main()
