"""The names of all metrics: one table for readers, and one spelling that every tracker takes."""

import re
from functools import lru_cache

METRICS = {
    "stage<k>/reward": "mean reward of stage k over its rewards; of rewards in a chain, the last",
    "stage<k>/zero_variance": "share of the groups of stage k whose rewards are all equal, so that they train nothing",
    "<reward>/reward": "mean over the rows that could be judged",
    "<reward>/reward_<term>": "the same for each term",
    "<reward>/unjudged": "share of the rows that could not be judged; completions that failed do not count",
    "<reward>/weight_<term>": "the weight of a term in this round (reward.weighted_sum)",
    "<reward>/clipped_<term>": "share of the rows whose term was cut to its bounds (reward.weighted_sum)",
    "<reward>/left_out": "share of the rows that one of the terms could not judge (reward.weighted_sum)",
    "<reward>/requests": "what judges were asked, of a server or a policy (reward.judge)",
    "<reward>/retries": "requests that were sent again",
    "<reward>/cache_hits": "verdicts that were known already",
    "<reward>/unparsable": "verdicts in which no score could be read",
    "<advantage>/reward": "mean reward that the advantages were made from",
    "<advantage>/reward_<term>": "the same for each term where terms have baselines of their own",
    "<advantage>/groups": "groups with a baseline",
    "<advantage>/groups_with_variance": "those whose rewards differ",
    "<advantage>/zero_variance": "share of those whose rewards are all equal",
    "<advantage>/childless": "share of the rows that no later row quotes, so that nothing is backed up",
    "<generator>/tokens": "tokens sampled",
    "<generator>/completion_length": "mean tokens of a completion",
    "<generator>/prompt_tokens": "mean tokens of a prompt",
    "<generator>/truncated": "share of the completions that met the limit of tokens",
    "<generator>/entropy": "mean of -log p of the sampled tokens, in nats: an estimate of the policy's entropy",
    "<generator>/failed": "share of the prompts that were left without a completion",
    "<generator>/quotes_dropped": "quoted completions that a prompt had no room for",
    "<generator>/prompts_cut": "prompts that were cut to their limit",
    "<exchange>/peers": "peers whose rows came in time",
    "<exchange>/refused": "rows refused",
    "<select>/kept": "share of the rows that were kept",
    "<update>/version": "optimiser steps of the policy since it was made",
    "<update>/loss": "mean over the optimiser steps of the round",
    "<update>/grad_norm": "the same, before clipping",
    "<update>/learning_rate": "of the last optimiser step",
    "<update>/ratio": "mean importance ratio, per token",
    "<update>/clipped_low": "share of the tokens whose gradient the lower bound stops",
    "<update>/clipped_high": "share of the tokens whose gradient the upper bound stops or caps",
    "<update>/kl": "k3 estimate of the KL to the reference, in nats per token; 0 without a reference",
    "<update>/optimiser_steps": "optimiser steps of the round",
    "<update>/trained_rows": "rows with a gradient",
    "<update>/trained_tokens": "tokens with a gradient",
    "<update>/left_out_rows": "rows without a finite advantage, without tokens, or of another tokenizer",
    "<update>/rows_of_another_tokenizer": "the last kind of them",
    "<update>/groups_without_variance": "groups whose advantages are all 0",
    "<update>/rows_without_forward": "rows that cost no forward pass, because nothing of them has a gradient",
    "<update>/pairs": "pairs of a chosen and a rejected completion (update.dpo)",
    "<update>/groups_without_pair": "groups in which no completion is better than another (update.dpo)",
    "<update>/rewards/<term>": "what TRL's trainer reports: chosen, rejected, accuracies and margins (update.dpo)",
    "<update>/level": "the level that the next round is at (update.level)",
    "<node>/rows": "rows that the node gave",
    "<node>/failed_rows": "completions that were not made, or rows left unjudged, in this very step",
    "time/<node>": "seconds",
    "time/round": "seconds",
    "speed/<node>": "tokens a second of a generator",
    "memory/rss_gb": "10^9 bytes of memory that this process holds now",
    "memory/peak_gb": "and the most that it ever held",
    "memory/device_gb": "and the most that torch ever held on a CUDA device; only where one is used",
    "budget/failed_rows": "rows of the run that failed or stayed unjudged so far",
    "budget/retries": "steps of the run that were tried again so far",
    "trackers/failures": "calls of trackers that failed so far",
    "eval/<node>/<metric>": "a metric of the node in an evaluation, on held-out tasks",
    "eval/<reward>/tasks": "held-out tasks of which at least one completion was judged",
    "eval/<reward>/pass_at_<k>": "share of the held-out tasks that one of k completions solves",
    "eval/<reward>/<kind>/pass_at_<k>": "the same over the tasks of one kind",
    "eval/time": "seconds of the evaluation",
}
"""What a run can measure; nodes of your own add `<node>/<metric>`. `memory/`, `budget/` and `trackers/` are of the
process and stand in the line of each of its peers."""


@lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """The name as every tracker writes it: letters, digits and `_-./`; `@` is spelled `_at_`, anything else `_`.

    No tracker then needs a mapping of its own: MLflow refuses other characters and TensorBoard replaces them.
    """
    parts = re.sub(r"[^A-Za-z0-9_\-./]", "_", name.replace("@", "_at_")).split("/")
    return "/".join(part for part in parts if part.strip(".")) or "_"
