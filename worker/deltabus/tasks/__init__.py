"""The functions whose dotted paths jobs hold, as in `deltabus.tasks.chat`; and `task`, which makes more of them."""

from deltabus.tasks.calls import embeddings, images, models, speech, transcription
from deltabus.tasks.chats import chat
from deltabus.tasks.files import file
from deltabus.tasks.function import TaskFunction, task

__all__ = [
    "TaskFunction",
    "chat",
    "embeddings",
    "file",
    "images",
    "models",
    "speech",
    "task",
    "transcription",
]
