"""Train, validation and test: by group, stratified by class, fixed by hash."""

from collections import Counter, defaultdict

from .records import stable_hash

SHARES = {"train": 0.60, "validation": 0.15, "test": 0.25}


def assign_splits(groups: dict[str, str], labels: dict[str, str]) -> dict[str, str]:
    """Concept -> split; `groups` and `labels` map concepts."""
    members: dict[str, list[str]] = defaultdict(list)
    for concept, group in groups.items():
        members[group].append(concept)
    by_label: dict[str, list[str]] = defaultdict(list)
    for group, concepts in members.items():
        counts = Counter(labels[concept] for concept in concepts)
        by_label[min(counts, key=lambda label: (-counts[label], label))].append(group)
    split_of: dict[str, str] = {}
    for label in sorted(by_label):
        split_of |= _stratum({group: len(members[group]) for group in by_label[label]})
    return {concept: split_of[group] for concept, group in groups.items()}


def _stratum(sizes: dict[str, int]) -> dict[str, str]:
    """Large groups first, the rest by hash; each goes where most is missing."""
    total = sum(sizes.values())
    large = max(6, total // 20)
    order = sorted(
        sizes, key=lambda group: (-sizes[group] if sizes[group] >= large else 0, stable_hash("split", group))
    )
    filled: Counter[str] = Counter()
    result = {}
    for group in order:
        split = max(SHARES, key=lambda name: SHARES[name] * total - filled[name])
        filled[split] += sizes[group]
        result[group] = split
    return result
