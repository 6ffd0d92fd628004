"""`job.json`: which job a folder holds, so that it is never mixed with another."""

import json
from importlib.metadata import version
from typing import Any

import numpy as np

from skipjax.codecs.images import check_png, shape_of
from skipjax.jobs.job import Resolved, fields_of, name_of
from skipjax.jobs.shards import FOLDER, NAME, Layout, Shards
from skipjax.jobs.storage import Store, read
from skipjax.plans import Plan

KIND, VERSION = "skipjax job", 2


def document(store: Store) -> dict[str, Any] | None:
    """What `job.json` says; None where there is none.

    Raises:
        ValueError: If it is no such file, or of another version.
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
    theirs = found.get("version")
    if theirs != VERSION:
        older = "an older skipjax, which kept a manifest" if theirs == 1 else "an unknown skipjax"
        by = f"skipjax {found['skipjax']}" if "skipjax" in found else older
        raise ValueError(
            f"{store} holds a job of version {theirs}, begun by {by}, and version {VERSION} is "
            "read here: take a new folder, or go on with the skipjax that began it"
        )
    return found


def shards(store: Store) -> Shards:
    """The shards of the job that a folder holds.

    Raises:
        ValueError: If it holds none, or one of another version.
    """
    found = document(store)
    if found is None:
        raise ValueError(f"{store} holds no job: there is no {NAME} in it")
    asked = found["identity"]
    return Shards(store, found["job"], Layout(asked["num"], asked["shard_size"], asked["format"]))


def about(store: Store) -> dict[str, Any]:
    """What all pictures of the job that a folder holds have in common, in a few words."""
    found = document(store)
    identity = {} if found is None else found["identity"]
    plan = Plan.from_json(json.dumps(identity["plan"]))
    model = identity["model"]
    common = {"seed": identity["seed"], "plan": str(plan), "checkpoint": model["name"]}
    common |= {"sha256": model["sha256"], "guidance": identity["guidance"]}
    return common | {"negative": identity["negative"]}


def same(store: Store, resolved: Resolved) -> tuple[Resolved, Shards] | None:
    """The job with the very plan that the folder's record has, and its shards; None if the folder
    is empty.

    Raises:
        ValueError: If the folder holds another job, with what differs; or other files and none; or
            the job's pictures do not fit its format.
    """
    if resolved.job.format == "tar":
        check_png(shape_of(resolved.params, resolved.sampler.shape))
    said = document(store)
    if said is None:
        strange = sorted({*store.names()} - {FOLDER} | {*store.names(FOLDER)})
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
    return resolved.with_plan(plan, identity), shards(store)


def agree(store: Store, resolved: Resolved) -> tuple[Resolved, Shards]:
    """Writes the job down where nothing is; what `same` gives otherwise, and raises."""
    if agreed := same(store, resolved):
        return agreed
    ours = {"kind": KIND, "version": VERSION, "skipjax": version("skipjax")}
    ours |= {"job": name_of(resolved.identity), "asked": fields_of(resolved.job)}
    text = json.dumps(ours | {"identity": resolved.identity}, indent=1) + "\n"
    store.create(NAME, text.encode())  # unless another worker was faster
    return agree(store, resolved)


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs between two identities, in words."""
    faults = []
    for name in sorted({*theirs, *ours}):
        there, here = theirs.get(name), ours.get(name)
        if there == here:
            continue
        if name != "plan" and isinstance(there, dict) and isinstance(here, dict):
            faults += [f"{name}.{fault}" for fault in differences(there, here)]
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
    columns = ("t", "alpha", "sigma", "keep", "mix", "noise", "guide_eps", "guide_mean")
    columns += ("log_variance", "prior_std", "excess")
    pairs = [(getattr(a, name), getattr(b, name)) for name in columns]
    return all(
        (x is None) == (y is None) and (x is None or np.allclose(x, y, rtol=1e-9, atol=1e-12))
        for x, y in pairs
    )


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}..."
