"""Updates: optimiser steps on credited rows, and carried values that follow the rewards."""
