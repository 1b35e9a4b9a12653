"""Update nodes: optimiser steps on credited rows, and other carried values that change from round to round."""
