"""The Kubernetes manifests and the Helm chart are valid, make the same guards, and fit to what the guard does.

The chart is rendered by Helm's own library. Objects are compared with Kubernetes' schemas, unknown fields included, and
with the types of the Prometheus Operator.
"""

import copy
import json
import re
import subprocess
import tempfile
import tomllib
import warnings
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

from deployment import lost
from harness import ROOT, count_failures, end

PLAIN = ROOT / "deploy" / "kubernetes"
CHART = ROOT / "deploy" / "helm" / "spendguard"
# The oldest that Chart.yaml admits, and the newest that there are schemas of.
VERSIONS = ("1.27", kubernetes_validate.latest_version())
OPERATORS = {"ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule}
# What only a chart's objects have.
CHART_LABELS = {"app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"}


def kustomized(folder):
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def rendered(values=None, release="spendguard"):
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values or {})
        files = chart.render(values or {}, name=release, namespace="default")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def by_name(objects):
    found = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    assert len(found) == len(objects), [one["kind"] for one in objects]
    return found


def one_of(objects, kind):
    return next(one for one in objects if one["kind"] == kind)


def pod_of(objects):
    return one_of(objects, "Deployment")["spec"]["template"]["spec"]


def guard_of(objects):
    return pod_of(objects)["containers"][0]


def without_chart_labels(objects):
    objects = copy.deepcopy(objects)
    for one in objects:
        labels = one["metadata"]["labels"]
        assert labels.keys() >= CHART_LABELS, one["metadata"]["name"]
        one["metadata"]["labels"] = {name: value for name, value in labels.items() if name not in CHART_LABELS}
    return objects


def without_comments(objects):
    """Configurations as their values."""
    objects = copy.deepcopy(objects)
    for one in objects:
        if one["kind"] == "ConfigMap":
            one["data"] = {name: tomllib.loads(text) for name, text in one["data"].items()}
    return objects


def check(one):
    """Raises what is wrong with one object."""
    if one["kind"] in OPERATORS:
        back = OPERATORS[one["kind"]].model_validate(one).model_dump(by_alias=True, exclude_unset=True, mode="json")
        unknown = list(lost(one, back))
        assert not unknown, f"unknown or changed: {unknown}"
        return
    for version in VERSIONS:
        kubernetes_validate.validate(one, version, strict=True)


# Everything switched on.
ALL_VALUES = {
    "fullnameOverride": "guards",
    "image": {"repository": "registry.example/guard", "tag": "1.2.3", "pullSecrets": [{"name": "registry"}]},
    "extraEnv": [{"name": "SLACK_WEBHOOK_URL", "valueFrom": {"secretKeyRef": {"name": "alerts", "key": "slack"}}}],
    "extraVolumes": [{"name": "roots", "configMap": {"name": "roots"}}],
    "extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots", "readOnly": True}],
    "service": {"proxy": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}}, "admin": {"annotations": {"a": "b"}}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "platform"},
    "nodeSelector": {"disk": "none"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "serviceAccount": {"annotations": {"a": "b"}},
    "podDisruptionBudget": {"maxUnavailable": "34%"},
    "networkPolicy": {
        "postgres": {"port": 6432, "to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]},
        "extraEgress": [{"ports": [{"port": 587, "protocol": "TCP"}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "autoscaling": {"enabled": True},
}


def objects_are_valid():
    plain = kustomized(PLAIN) + kustomized(PLAIN / "monitoring")
    example = list(yaml.safe_load_all((PLAIN / "secret.example.yaml").read_text()))
    for one in plain + example + rendered() + rendered(ALL_VALUES):
        try:
            check(one)
        except Exception as error:
            raise AssertionError(f"{one['kind']} {one['metadata']['name']}: {str(error).splitlines()[0]}") from error


# Places in the rendered objects, and what is wrong with them.
MISTAKES = {
    "a field that there is not": ("Deployment", ("spec", "replicaz"), 3),
    "a text for a number": ("Deployment", ("spec", "replicas"), "three"),
    "a field in a wrong place": ("Deployment", ("spec", "template", "spec", "readOnlyRootFilesystem"), True),
    "a misspelt probe": ("Deployment", ("spec", "template", "spec", "containers", 0, "readyProbe"), {}),
    "a number for a capability": ("Deployment", ("spec", "template", "spec", "containers", 0, "securityContext", "capabilities", "drop"), 1),
    "a list for a selector": ("PodDisruptionBudget", ("spec", "selector"), []),
    "a wrong port": ("Service", ("spec", "ports", 0, "port"), "proxy"),
    "a misspelt policy": ("NetworkPolicy", ("spec", "egres"), []),
    "a metric of its own invention": ("HorizontalPodAutoscaler", ("spec", "metrics", 0, "resource", "percent"), 70),
    "a misspelt endpoint": ("ServiceMonitor", ("spec", "endpoints", 0, "prot"), "admin"),
    "a number for a port's name": ("ServiceMonitor", ("spec", "endpoints", 0, "port"), 8081),
}


def mistakes_are_noticed():
    objects = rendered(ALL_VALUES)
    for what, (kind, path, value) in MISTAKES.items():
        broken = copy.deepcopy(one_of(objects, kind))
        check(broken)
        inner = broken
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        try:
            check(broken)
        except Exception:
            continue
        raise AssertionError(f"not noticed: {what}")


def values_with_mistakes_are_refused():
    wrong = [
        {"replica": 3},
        {"replicas": "3"},
        {"image": {"tag": "latest"}},
        {"service": {"admin": {"type": "LoadBalancer"}}},
        {"topologySpread": {"zone": "Sometimes"}},
        {"config": {"server": {}}},
        {"podDisruptionBudget": {"maxUnavailable": "one"}},
        {"terminationGracePeriodSeconds": 10, "preStopSeconds": 10},
    ]
    for values in wrong:
        try:
            rendered(values)
        except helm_python.HelmError:
            continue
        raise AssertionError(f"taken: {values}")


def the_chart_has_no_faults():
    report = helm_python.lint(CHART, strict=True)
    serious = [message for message in report["messages"] if message["severity"] > 1]
    assert not report["errors"] and not serious, report


def the_chart_makes_what_the_manifests_have():
    pairs = [({}, kustomized(PLAIN)), ({"serviceMonitor": {"enabled": True}}, kustomized(PLAIN) + kustomized(PLAIN / "monitoring"))]
    for values, plain in pairs:
        chart = by_name(without_comments(without_chart_labels(rendered(values))))
        plain = by_name(without_comments(plain))
        assert chart.keys() == plain.keys(), chart.keys() ^ plain.keys()
        for name, one in plain.items():
            assert chart[name] == one, f"{name}:\n{json.dumps(chart[name], indent=1)}\n{json.dumps(one, indent=1)}"


def two_releases_share_nothing_but_the_secret():
    one, other = rendered(release="blue"), rendered(release="green")
    assert not by_name(one).keys() & by_name(other).keys()
    selectors = [one_of(objects, "Deployment")["spec"]["selector"]["matchLabels"] for objects in (one, other)]
    assert selectors[0] != selectors[1]
    for objects in (one, other):
        config = tomllib.loads(one_of(objects, "ConfigMap")["data"]["spendguard.toml"])
        services = {service["metadata"]["name"] for service in objects if service["kind"] == "Service"}
        assert set(config["admin"]["hosts"]) <= services, "the admin listener would not answer to its Service's name"


def the_chart_can_be_packed():
    with tempfile.TemporaryDirectory() as folder:
        helm_python.package(CHART, destination=folder)
        with helm_python.Chart.load(next(Path(folder).glob("spendguard-*.tgz"))) as chart:
            assert "spendguard/templates/deployment.yaml" in chart.render({}, name="spendguard")


def the_documented_command_makes_a_rule():
    text = (ROOT / "deploy" / "README.md").read_text()
    command = re.search(r"^(\(printf .+PrometheusRule.+\)) \| kubectl apply -f -$", text, re.MULTILINE)[1]
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    rule = yaml.safe_load(done.stdout)
    check(rule)
    assert rule["spec"] == yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())


def all_files_are_used():
    listed = yaml.safe_load((PLAIN / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in PLAIN.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert set(listed) == there, set(listed) ^ there
    documented = (CHART / "values.yaml").read_text()
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert set(yaml.safe_load(documented)) == set(schema["properties"]) - {"global"}


def guards_have_no_rights_and_no_disk():
    for objects in (kustomized(PLAIN), rendered(), rendered(ALL_VALUES)):
        pod, guard = pod_of(objects), guard_of(objects)
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
        user = re.search(r"^USER (\d+)$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE)[1]
        assert pod["securityContext"]["runAsUser"] == int(user)
        confined = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert guard["securityContext"] == confined
        assert not [volume for volume in pod["volumes"] if volume.keys() & {"persistentVolumeClaim", "hostPath", "emptyDir"}]
        mounts = [mount for mount in guard["volumeMounts"] if mount["name"] == "config"]
        assert len(mounts) == 1 and "subPath" not in mounts[0], "a changed file would not be seen"


def guards_keep_answering_during_an_update():
    for objects in (kustomized(PLAIN), rendered()):
        spec = one_of(objects, "Deployment")["spec"]
        assert spec["replicas"] == 3
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        assert one_of(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
        config = tomllib.loads(one_of(objects, "ConfigMap")["data"]["spendguard.toml"])
        drain = int(config["server"]["drain"].removesuffix("s"))
        pause = int(guard_of(objects)["lifecycle"]["preStop"]["exec"]["command"][1])
        grace = pod_of(objects)["terminationGracePeriodSeconds"]
        # As the unit of systemd has it, beside what preStop takes.
        assert grace >= pause + drain + 10, f"{grace} s for {pause} + {drain}"


def probes_ask_for_paths_that_there_are():
    admin = (ROOT / "src" / "admin.rs").read_text()
    for objects in (kustomized(PLAIN), rendered()):
        guard = guard_of(objects)
        ports = {port["name"]: str(port["containerPort"]) for port in guard["ports"]}
        paths = {name: guard[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
        assert all(f'.route("{probe["path"]}"' in admin and probe["port"] == "admin" for probe in paths.values()), paths
        # Without its database a guard is not ready, and must not be restarted.
        assert paths["livenessProbe"]["path"] == "/livez" and paths["readinessProbe"]["path"] == "/readyz"
        config = tomllib.loads(one_of(objects, "ConfigMap")["data"]["spendguard.toml"])
        assert config["server"]["listen"].endswith(":" + ports["proxy"]) and config["admin"]["listen"].endswith(":" + ports["admin"])


def services_lead_to_the_guards():
    for objects in (kustomized(PLAIN), rendered(ALL_VALUES)):
        deployment = one_of(objects, "Deployment")
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        ports = {port["name"] for port in guard_of(objects)["ports"]}
        services = [one for one in objects if one["kind"] == "Service"]
        assert len(services) == 2
        for service in services:
            assert labels >= service["spec"]["selector"].items()
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        selected = [one_of(objects, "PodDisruptionBudget")["spec"]["selector"], one_of(objects, "NetworkPolicy")["spec"]["podSelector"]]
        selected += [constraint["labelSelector"] for constraint in pod_of(objects)["topologySpreadConstraints"]]
        assert all(one == deployment["spec"]["selector"] and labels >= one["matchLabels"].items() for one in selected)
        admin = next(service for service in services if service["metadata"]["name"].endswith("-admin"))
        assert admin["spec"]["type"] == "ClusterIP" and admin["spec"]["sessionAffinity"] == "ClientIP"


def the_service_monitor_finds_the_admin_listeners_only():
    monitors = [(kustomized(PLAIN), kustomized(PLAIN / "monitoring")), (rendered(ALL_VALUES), rendered(ALL_VALUES))]
    for objects, monitored in monitors:
        spec = one_of(monitored, "ServiceMonitor")["spec"]
        labels = lambda service: service["metadata"]["labels"]
        found = [one for one in objects if one["kind"] == "Service" and labels(one).items() >= spec["selector"]["matchLabels"].items()]
        assert [one["metadata"]["name"][-6:] for one in found] == ["-admin"]
        assert spec["endpoints"][0]["port"] in {port["name"] for port in found[0]["spec"]["ports"]}
        job = yaml.safe_load((ROOT / "deploy" / "prometheus" / "scrape.yml").read_text())["scrape_configs"][0]["job_name"]
        assert labels(found[0])[spec["jobLabel"]] == job


def images_are_pinned_to_this_version():
    version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == version
    for objects in (kustomized(PLAIN), rendered()):
        assert guard_of(objects)["image"] == f"registry.example.com/spendguard:{version}"
    assert guard_of(rendered(ALL_VALUES))["image"] == "registry.example/guard:1.2.3"


def secrets_are_placeholders_and_each_is_wanted():
    example = yaml.safe_load((PLAIN / "secret.example.yaml").read_text())
    assert all("REPLACE" in value for value in example["stringData"].values())
    for objects in (kustomized(PLAIN), rendered()):
        assert not [one for one in objects if one["kind"] == "Secret"]
        references = [entry["valueFrom"]["secretKeyRef"] for entry in guard_of(objects)["env"] if "secretKeyRef" in entry.get("valueFrom", {})]
        assert {reference["name"] for reference in references} == {example["metadata"]["name"]}
        assert {reference["key"] for reference in references} == set(example["stringData"])
    without = guard_of(rendered({"secret": {"keys": {"openaiApiKey": ""}}}))
    assert "OPENAI_API_KEY" not in {entry["name"] for entry in without["env"]}


def known_keys():
    """The keys that the shipped configuration names."""
    section, keys = "", set()
    for line in (ROOT / "config" / "spendguard.toml").read_text().splitlines():
        if found := re.match(r"#?\[+([\w.]+)\]+", line):
            section = found[1]
        elif found := re.match(r"#?(\w+) = ", line):
            keys.add(f"{section}.{found[1]}")
    return keys


def the_configuration_has_keys_that_there_are():
    known = known_keys()
    config = tomllib.loads(one_of(kustomized(PLAIN), "ConfigMap")["data"]["spendguard.toml"])
    written = {f"{section}.{key}" for section, values in config.items() for key in values}
    variables = [entry["name"] for entry in guard_of(kustomized(PLAIN))["env"] if "__" in entry["name"]]
    written |= {name.removeprefix("SPENDGUARD_").lower().replace("__", ".") for name in variables}
    assert written <= known, written - known
    # A variable would win over the file: the name of a guard is set in one place.
    assert "cluster.node" in written and "node" not in config["cluster"]


def main():
    warnings.simplefilter("ignore")
    tests = [
        objects_are_valid,
        mistakes_are_noticed,
        values_with_mistakes_are_refused,
        the_chart_has_no_faults,
        the_chart_makes_what_the_manifests_have,
        two_releases_share_nothing_but_the_secret,
        the_chart_can_be_packed,
        the_documented_command_makes_a_rule,
        all_files_are_used,
        guards_have_no_rights_and_no_disk,
        guards_keep_answering_during_an_update,
        probes_ask_for_paths_that_there_are,
        services_lead_to_the_guards,
        the_service_monitor_finds_the_admin_listeners_only,
        images_are_pinned_to_this_version,
        secrets_are_placeholders_and_each_is_wanted,
        the_configuration_has_keys_that_there_are,
    ]
    end("manifests", tests, count_failures(tests))


if __name__ == "__main__":
    main()
