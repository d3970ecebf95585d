"""Chat completions as the OpenAI API has them: what is asked (`request`, `messages`, `parts`, `parameters`), and the
whole that comes of chunks (`accumulator`, with a `choice` each; `increments` and `toolcalls` within it).
"""
