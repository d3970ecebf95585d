"""What people write: the OpenAI SDK reads the stream, and every chunk is published on a channel of Redis."""

import asyncio
import os

import redis.asyncio
from openai import AsyncOpenAI
from window import Window


async def stream(client: AsyncOpenAI, there: redis.asyncio.Redis, window: Window, number: int) -> None:
    chunks = await client.chat.completions.create(
        model="bench-model", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    async for chunk in chunks:
        text = chunk.choices[0].delta.content
        await there.publish(f"stream:{number}", chunk.model_dump_json())
        window.add(f'"{text}'.encode())


async def main() -> None:
    window = Window()
    there = redis.asyncio.from_url(os.environ["REDIS_URL"])
    async with AsyncOpenAI(base_url=window.url, api_key="none", max_retries=0) as client:
        await window.measure(stream(client, there, window, number) for number in range(window.streams))


asyncio.run(main())
