#!/usr/bin/env python3
"""Hears what happens on a Comity server over its bus, and says something there. See ../bus.md.

    pip install aio-pika
    bus.py amqp://crm:PASSWORD@127.0.0.1/im listen
    bus.py amqp://crm:PASSWORD@127.0.0.1/im say '!room:a.example' crm-bot@a.example 'a new order'
"""

import asyncio
import json
import sys
import time
import uuid
from urllib.parse import quote, unquote, urlsplit

import aio_pika

EXCHANGE = "instant_exchange"


def word(an_id):
    """An id as one word of a routing key: everything but letters, digits, - and _ is percent-encoded."""
    return quote(an_id, safe="").replace(".", "%2E").replace("~", "%7E")


async def listen(channel, exchange):
    """Prints every message of every room, each once, also those said while this program was not running."""
    queue = await channel.declare_queue("crm.messages", durable=True)
    await queue.bind(exchange, "chat.message.#")
    seen = set()
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                # What programs ask to be said goes by here, too. What was said comes from the server.
                if message.app_id != "comity":
                    continue
                envelope = json.loads(message.body)
                # The bus delivers at least once: the same id is the same message. A real program keeps these in its database.
                if envelope["version"] != 1 or envelope["id"] in seen:
                    continue
                seen.add(envelope["id"])
                data = envelope["data"]
                print(data["room_id"], data["sender"], data["content"].get("body"), flush=True)


async def say(exchange, user, room, sender, text):
    """Says something in a room, as a user of the server for whom `bus.publishers` allows it."""
    envelope = {
        "version": 1,
        "type": "chat.message",
        "id": str(uuid.uuid4()),  # published again with the same id, it is said once
        "time": int(time.time() * 1000),
        "origin": "crm",
        "data": {"sender": sender, "body": text},
    }
    message = aio_pika.Message(
        json.dumps(envelope).encode(),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=envelope["id"],
        user_id=user,  # the broker vouches for it
    )
    await exchange.publish(message, routing_key=f"chat.message.conversation.{word(room)}")


async def main(url, action, *arguments):
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel(publisher_confirms=True)
        await channel.set_qos(prefetch_count=100)
        exchange = await channel.get_exchange(EXCHANGE)
        if action == "listen":
            await listen(channel, exchange)
        else:
            await say(exchange, unquote(urlsplit(url).username), *arguments)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
