"""KubeSchedulerConfigurations with one mistake each, and some that only look mistaken."""

from __future__ import annotations

import textwrap

__all__ = ["HEAD", "REFUSED", "STARTING", "args", "extender", "profile"]

HEAD = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"


def profile(text: str) -> str:
    return f"{HEAD}profiles:\n- schedulerName: gpus\n" + textwrap.indent(text, "  ")


def args(plugin: str, args: str) -> str:
    return profile(f"pluginConfig: [{{name: {plugin}, args: {args}}}]\n")


def extender(fields: str) -> str:
    return f"{HEAD}extenders:\n- {{urlPrefix: 'http://10.1.2.3:99', {fields}}}\n"


FIT, SPREAD, AFFINITY = "NodeResourcesFit", "PodTopologySpread", "NodeAffinity"
_TERMS = "addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
_ARGS = "profiles[0].pluginConfig[0].args"
_PLUGINS = "profiles[0].plugins"
_ELECTION = "leaderElection"


def _terms(expression: str) -> str:
    return (
        "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
        f"{{nodeSelectorTerms: [{{matchExpressions: [{expression}]}}]}}}}}}"
    )


REFUSED = [
    # rule, where, file
    ("wrong-type", "parallelism", HEAD + "parallelism: '16'\n"),
    ("wrong-type", "parallelism", HEAD + "parallelism: 3000000000\n"),
    ("wrong-type", "enableProfiling", HEAD + "enableProfiling: 1\n"),
    ("wrong-type", "leaderElection", HEAD + "leaderElection: []\n"),
    ("wrong-type", "leaderElection.retryPeriod", HEAD + "leaderElection: {retryPeriod: 2}\n"),
    ("wrong-type", "leaderElection.retryPeriod", HEAD + "leaderElection: {retryPeriod: }\n"),
    ("wrong-type", "profiles", HEAD + "profiles: {schedulerName: gpus}\n"),
    ("wrong-type", "profiles[0].schedulerName", HEAD + "profiles: [{schedulerName: 7}]\n"),
    ("wrong-type", "clientConnection.qps", HEAD + "clientConnection: {qps: .inf}\n"),
    ("wrong-type", f"{_ARGS}.kind", args(FIT, "{kind: NodeAffinityArgs}")),
    ("wrong-type", _ARGS, args(FIT, "[cpu]")),
    ("wrong-type", "extenders[0].tlsConfig.caData", extender("tlsConfig: {caData: '%'}")),
    ("unknown-field", f"{_ARGS}.addedAfinity", args(AFFINITY, "{addedAfinity: {}}")),
    ("key-twice", "parallelism", HEAD + "parallelism: 4\nparallelism: 4\n"),
    ("key-twice", "clientConnection.qps", HEAD + "clientConnection: {qps: 4, <<: {qps: 5}}\n"),
    ("no-json", "(file)", "{apiVersion: kubescheduler.config.k8s.io/v1}"),
    ("out-of-range", "parallelism", HEAD + "parallelism: 0\n"),
    ("out-of-range", "percentageOfNodesToScore", HEAD + "percentageOfNodesToScore: 101\n"),
    ("out-of-range", "podInitialBackoffSeconds", HEAD + "podInitialBackoffSeconds: 60\n"),
    ("out-of-range", "clientConnection.burst", HEAD + "clientConnection: {burst: -1}\n"),
    ("leader-election", "leaderElection.resourceLock", HEAD + "leaderElection: {resourceLock: x}"),
    (
        "leader-election",
        "leaderElection.leaseDuration",
        HEAD + "leaderElection: {leaseDuration: 9s}",
    ),
    ("leader-election", f"{_ELECTION}.renewDeadline", HEAD + "leaderElection: {retryPeriod: 9s}"),
    ("profile-name", "profiles[1].schedulerName", HEAD + "profiles: [{schedulerName: a}, {}]\n"),
    ("profile-name", "profiles[0].schedulerName", HEAD + "profiles: [{schedulerName: ''}]\n"),
    (
        "profile-name",
        "profiles[1].schedulerName",
        HEAD + "profiles: [&p {schedulerName: a}, *p]\n",
    ),
    (
        "plugin",
        f"{_PLUGINS}.score.enabled[0]",
        profile("plugins: {score: {enabled: [{name: NodeResourceFit}]}}"),
    ),
    (
        "plugin",
        f"{_PLUGINS}.score.enabled[0]",
        profile("plugins: {score: {enabled: [{name: NodeResourcesMostAllocated}]}}"),
    ),
    (
        "plugin",
        f"{_PLUGINS}.score.enabled[0]",
        profile("plugins: {score: {enabled: [{name: NodeName}]}}"),
    ),
    (
        "plugin-twice",
        f"{_PLUGINS}.filter.enabled[1]",
        profile("plugins: {filter: {enabled: [{name: NodeName}, {name: NodeName}]}}"),
    ),
    (
        "plugin-twice",
        f"{_PLUGINS}.multiPoint.enabled[1]",
        profile("plugins: {multiPoint: {enabled: [{name: NodeName}, {name: NodeName}]}}"),
    ),
    ("plugin-missing", _PLUGINS, profile("plugins: {queueSort: {disabled: [{name: '*'}]}}")),
    ("plugin-missing", _PLUGINS, profile("plugins: {bind: {disabled: [{name: DefaultBinder}]}}")),
    (
        "plugin-weight",
        _PLUGINS,
        profile("plugins: {score: {enabled: [{name: ImageLocality, weight: -1}]}}"),
    ),
    (
        "plugin-arguments",
        f"{_PLUGINS}.podGroupPostFilter.enabled[0]",
        profile(
            "plugins: {multiPoint: {disabled: [{name: DefaultPreemption}]}, "
            "podGroupPostFilter: {enabled: [{name: DefaultPreemption}]}}"
        ),
    ),
    (
        "plugin-config",
        "profiles[0].pluginConfig[1]",
        profile(f"pluginConfig: [{{name: {FIT}}}, {{name: {FIT}}}]"),
    ),
    ("plugin-config", f"{_ARGS}.scoringStrategy.type", args(FIT, "{scoringStrategy: {}}")),
    (
        "plugin-config",
        f"{_ARGS}.scoringStrategy.resources[0].weight",
        args(FIT, "{scoringStrategy: {type: MostAllocated, resources: [{weight: 101}]}}"),
    ),
    (
        "plugin-config",
        f"{_ARGS}.scoringStrategy.requestedToCapacityRatio",
        args(FIT, "{scoringStrategy: {type: RequestedToCapacityRatio}}"),
    ),
    (
        "plugin-config",
        f"{_ARGS}.ignoredResourceGroups[0]",
        args(FIT, "{ignoredResourceGroups: [a/b]}"),
    ),
    (
        "plugin-config",
        f"{_ARGS}.resources[0].weight",
        args("NodeResourcesBalancedAllocation", "{resources: [{name: cpu, weight: 2}]}"),
    ),
    (
        "plugin-config",
        f"{_ARGS}.defaultingType",
        args(
            SPREAD,
            "{defaultConstraints: [{maxSkew: 1, topologyKey: a, "
            "whenUnsatisfiable: ScheduleAnyway}]}",
        ),
    ),
    (
        "plugin-config",
        f"{_ARGS}.defaultConstraints[0].maxSkew",
        args(
            SPREAD,
            "{defaultingType: List, defaultConstraints: [{topologyKey: a, "
            "whenUnsatisfiable: ScheduleAnyway}]}",
        ),
    ),
    (
        "plugin-config",
        f"{_ARGS}.{_TERMS}[0].matchExpressions[0].operator",
        args(AFFINITY, _terms("{key: a, operator: in, values: [b]}")),
    ),
    (
        "plugin-config",
        f"{_ARGS}.{_TERMS}[0].matchExpressions[0].values",
        args(AFFINITY, _terms("{key: a, operator: Gt, values: [b]}")),
    ),
    (
        "plugin-config",
        f"{_ARGS}.minCandidateNodesPercentage",
        args("DefaultPreemption", "{minCandidateNodesPercentage: 101}"),
    ),
    (
        "plugin-config",
        f"{_ARGS}.hardPodAffinityWeight",
        args("InterPodAffinity", "{hardPodAffinityWeight: -1}"),
    ),
    (
        "plugin-config",
        f"{_ARGS}.shape[0].score",
        args("VolumeBinding", "{shape: [{utilization: 0, score: 11}]}"),
    ),
    (
        "plugin-config",
        f"{_ARGS}.bindingTimeout",
        args("DynamicResources", "{bindingTimeout: 500ms}"),
    ),
    (
        "queue-sort",
        "profiles[1].plugins.queueSort",
        HEAD + "profiles:\n- schedulerName: a\n- schedulerName: b\n"
        "  plugins: {queueSort: {enabled: [{name: PrioritySort}]}}\n",
    ),
    ("binders", "extenders[0].bindVerb", HEAD + "extenders: [&x {bindVerb: b}, *x]\n"),
    ("weight-zero", "extenders[0].weight", extender("prioritizeVerb: sort")),
    (
        "resource-name",
        "extenders[0].managedResources[0].name",
        extender("managedResources: [{name: memory}]"),
    ),
    (
        "resource-twice",
        "extenders[0].managedResources[1]",
        extender("managedResources: [{name: a.b/c}, {name: a.b/c}]"),
    ),
    (
        "certificate-data",
        "extenders[0].tlsConfig.caData",
        extender("tlsConfig: {caData: bm8gUEVN}"),
    ),
    (
        "ignored-resource",
        "extenders[0].managedResources[0].ignoredByScheduler",
        profile("plugins: {multiPoint: {disabled: [{name: NodeResourcesFit}]}}")
        + "\nextenders: [{managedResources: [{name: a.b/c, ignoredByScheduler: true}]}]\n",
    ),
]


STARTING = [
    HEAD,
    HEAD + "parallelism: 1e1\nenableProfiling: y\n",
    HEAD + "parallelism: 0o20\npodMaxBackoffSeconds: 1_0\n",
    HEAD + "parallelism: 16.0\nprofiles: [null]\nleaderElection:\n",
    HEAD + "leaderElection: {leaseDuration: '0', renewDeadline: 1.5s, retryPeriod: 1s}\n",
    HEAD + "leaderElection: {leaderElect: false, resourceLock: endpoints, retryPeriod: -1s}\n",
    HEAD + "clientConnection: {<<: {qps: 4.5}, burst: 10}\n",
    "# a comment\n---\n" + HEAD + "---\nwhatever: follows\n",
    args(FIT, ""),
    args(FIT, "{kind: NodeResourcesFitArgs, apiVersion: kubescheduler.config.k8s.io/v1}"),
    args("Coscheduling", "{permitWaitingTimeSeconds: 10}"),
    args(SPREAD, "{defaultingType: List, defaultConstraints: []}"),
    args(AFFINITY, _terms("{key: a.b/c, operator: Gt, values: ['5']}")),
    profile("plugins: {multiPoint: {enabled: [{name: NodeResourcesFit, weight: 9}]}}"),
    profile("plugins: {score: {enabled: [{name: ImageLocality}], disabled: [{name: '*'}]}}"),
    profile("plugins: {queueSort: {disabled: [{name: '*'}], enabled: [{name: PrioritySort}]}}"),
    extender("filterVerb: whatever/it, managedResources: [{name: nvidia.com/mig-1g.5gb}]"),
    '{"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"}',
]
