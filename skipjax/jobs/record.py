"""`job.json`: which job a folder holds, so that it is never mixed with another."""

import json
from typing import Any

import numpy as np

from skipjax.jobs import shards
from skipjax.jobs.job import Resolved, asked, name_of
from skipjax.jobs.shards import Layout
from skipjax.jobs.storage import Store, read
from skipjax.plans import Plan

NAME, KIND, VERSION = "job.json", "skipjax job", 1


def document(store: Store) -> dict[str, Any] | None:
    """What `job.json` says; None where there is none.

    Raises:
        ValueError: If it is no such file.
    """
    content = read(store, NAME)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{store}/{NAME} is no JSON ({error})") from None
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise ValueError(f"{store}/{NAME} is no record of a job")
    if found.get("version") != VERSION:
        raise ValueError(
            f"{store}/{NAME} is of version {found.get('version')}, and {VERSION} is read here"
        )
    return found


def found(store: Store) -> dict[str, Any]:
    """What `job.json` says.

    Raises:
        ValueError: If there is none, or it is no such file.
    """
    said = document(store)
    if said is None:
        raise ValueError(f"{store} holds no job: there is no {NAME} in it")
    return said


def layout(found: dict[str, Any]) -> Layout:
    """How the job that a document speaks of is cut into shards."""
    identity = found["identity"]
    return Layout(identity["num"], identity["shard_size"], identity["format"])


def same(store: Store, resolved: Resolved) -> tuple[Resolved, str] | None:
    """The job with the very plan that the folder's record has, and its hash; None if it has none.

    Raises:
        ValueError: If the folder holds another job, with what differs; or other files and none.
    """
    said = document(store)
    if said is None:
        strange = sorted({*store.sizes(), *store.sizes(shards.FOLDER)})
        if strange:
            raise ValueError(
                f"{store} holds {strange[0]} and no {NAME}: take a folder that is empty or not "
                "there yet"
            )
        return None
    faults = differences(said["identity"], resolved.identity)
    if faults:
        raise ValueError(
            f"{store} holds another job: {'; '.join(faults)}. Ask for the same, or take another "
            "folder"
        )
    # Two machines may differ in the last bit of a coefficient, and their pictures must not.
    plan = Plan.from_json(json.dumps(said["identity"]["plan"]))
    identity = resolved.identity | {"plan": said["identity"]["plan"]}
    return resolved._replace(plan=plan, identity=identity), said["job"]


def agree(store: Store, resolved: Resolved) -> tuple[Resolved, str]:
    """Writes the job down where nothing is; what `same` gives otherwise, and raises."""
    if agreed := same(store, resolved):
        return agreed
    name = name_of(resolved.identity)
    ours = {"kind": KIND, "version": VERSION, "job": name, "asked": asked(resolved.job)}
    text = json.dumps(ours | {"identity": resolved.identity}, indent=1) + "\n"
    if not store.create(NAME, text.encode()):  # another worker was faster
        return agree(store, resolved)
    return resolved, name


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs between two identities, in words."""
    faults = []
    for name in sorted({*theirs, *ours}):
        there, here = theirs.get(name), ours.get(name)
        if there == here:
            continue
        if name == "plan":
            a, b = (Plan.from_json(json.dumps(plan)) for plan in (there, here))
            if _alike(a, b):
                continue
            there, here = a, b
            if repr(a) == repr(b):
                there, here = "one", "another with other coefficients"
        faults.append(f"{name} is {_brief(there)} there and {_brief(here)} here")
    return faults


def _alike(a: Plan, b: Plan) -> bool:
    """Whether two plans are equal up to rounding."""
    if repr(a) != repr(b):
        return False
    columns = ("t", "alpha", "sigma", "keep", "mix", "noise", "steer", "shift", "log_variance")
    pairs = [(getattr(a, name), getattr(b, name)) for name in columns]
    return all(
        (x is None) == (y is None) and (x is None or np.allclose(x, y, rtol=1e-9, atol=1e-12))
        for x, y in pairs
    )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
