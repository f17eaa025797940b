"""YAML in which every scalar has one meaning, that of `spiking_vq.values`.

Of YAML 1.1's own rules `010` is 8, `1:30` is 90, `1e-3` is text and `no` is false. Here a plain scalar is null, a truth
value, an integer or a number as options are, or else text. Anchors, aliases and tags of other types are refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from spiking_vq.errors import InputError
from spiking_vq.values import INTEGER, NUMBER, read_path

TAG = "tag:yaml.org,2002:"
SCALARS = {"null": "~|null|", "bool": "(?i:true|false)", "int": INTEGER, "float": NUMBER}
"""YAML's name of a type -> the plain scalars of it; the first that fits."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}
    yaml_constructors = {
        f"{TAG}null": lambda loader, node: None,
        f"{TAG}bool": lambda loader, node: node.value.lower() == "true",
        f"{TAG}int": lambda loader, node: int(node.value),
        f"{TAG}float": lambda loader, node: float(node.value),
        f"{TAG}str": yaml.SafeLoader.construct_yaml_str,
        f"{TAG}seq": yaml.SafeLoader.construct_yaml_seq,
        f"{TAG}map": yaml.SafeLoader.construct_yaml_map,
        None: yaml.SafeLoader.construct_undefined,
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise ComposerError(None, None, "found an alias, which is not supported", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConstructorError(None, None, f"found {twice!r} twice", node.start_mark)
        return found


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}


for _name, _pattern in SCALARS.items():
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(TAG + _name, re.compile(rf"(?:{_pattern})\Z"), None)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a file holds; an empty file holds an empty one.

    Raises:
        InputError: no such file, no YAML, or not a mapping of names.
    """
    try:
        values = yaml.load(read_path("path", path).read_bytes(), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"cannot read the configuration {path}: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"cannot read the configuration {path}: expected lines `field: value`, got {values}")
    return values


def to_yaml(values: dict[str, Any]) -> str:
    """The text of a mapping, in its own order; `read_yaml` reads the same values from it."""
    return yaml.dump(values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
