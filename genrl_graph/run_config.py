"""The options of a run that a graph file may set under `run:`; the command line wins over them."""

from pydantic import BaseModel, ConfigDict, Field


class RunConfig(BaseModel):
    """How long and with what seed a game is played; nothing here changes what the game is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rounds: int = Field(10, ge=0, description="how many rounds to play")
    seed: int = Field(0, ge=0, description="seed of every random stream of the run")
    peers: int = Field(1, ge=1, le=1024, description="peers that a local run plays in one process")
    threads: int | None = Field(
        None, ge=1, description="CPU threads of torch; by default what torch or OMP_NUM_THREADS says"
    )
    checkpoint_every: int = Field(0, ge=0, description="rounds between checkpoints; 0 keeps only the one at the end")
    block_rounds: int = Field(
        64, ge=1, description="rounds after which the journal is written to the zarr store at the latest"
    )
