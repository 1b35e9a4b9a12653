"""A game whose peers average the weights of one policy every two rounds; without its `run`."""

AVERAGED = """
graph: averaged
version: 1
carry:
  policy:
    type: policy.tiny_lm
    params: {alphabet: 0123456789+=, initializer_range: 0.1, hidden_size: 16, layers: 1, heads: 2}
    next: average.policy
  outer: {type: carry.outer, next: average.outer}
nodes:
  tasks:
    type: source.list
    params: {tasks: [{question: "1+2=", answer: "3"}, {question: "4+4=", answer: "8"}], num_tasks: 2}
  answer:
    type: generate.answer
    inputs: {tasks: tasks, policy: policy}
    params: {template: "{{ task.question }}", num_generations: 8, max_new_tokens: 1}
  score: {type: reward.regex, inputs: {rollouts: answer}, params: {pattern: '^(\\d)$', compare: true, miss: -0.5}}
  credit: {type: advantage.group, inputs: {scored: score}}
  update: {type: update.grpo, inputs: {policy: policy, credited: [credit]}, params: {learning_rate: 1e-2}}
  average: {type: exchange.average, inputs: {policy: update, outer: outer}, params: {every: 2, min_peers: 2}}
"""
